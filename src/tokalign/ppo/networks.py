"""Policy, reference and value model of PPO, and how they share memory.

=================  ==========================================  ================================================
                   ``--value-model separate``                  ``--value-model shared``
=================  ==========================================  ================================================
full fine-tuning   policy, reference (a copy of the starting   policy with a value head on its last hidden
                   policy) and value model                     states, reference
``--lora``         one frozen base model with an adapter for   one frozen base model with an adapter for the
                   the policy and one for the value model      policy, and a value head on the policy's states
=================  ==========================================  ================================================

With ``--lora``, the base model without adapters is the reference, and a reward model that was trained as an adapter
on the same base model is loaded as one more adapter.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import TokenClassifierOutput

from tokalign.artifacts.model_files import ADAPTER
from tokalign.config.methods import PpoOptions
from tokalign.errors import UsageError
from tokalign.models import distributed, loading, lora
from tokalign.models.batch import Batch
from tokalign.models.heads import hidden_size
from tokalign.models.lora import POLICY, VALUE
from tokalign.models.policy import TokenStats, response_logprobs, response_values
from tokalign.models.tokenizer import Tokenizer


class Networks:
    """Policy, reference and value model. Trained weights are float32, also with ``--dtype bfloat16``.

    Args:
        source: folder or hub id of the starting policy.
        options: PPO options: layout, adapters, precision.
        device: device of all networks.
        tokenizer: the policy's tokenizer; model outputs beyond its vocabulary are ignored.

    Raises:
        InputError: the policy cannot be loaded or does not match the tokenizer.
        UsageError: ``--lora`` with FSDP.
    """

    def __init__(self, source: str, options: PpoOptions, device: torch.device, tokenizer: Tokenizer) -> None:
        self.source, self.options, self.device, self.size = source, options, device, tokenizer.size
        self.shared = options.value_model == "shared"
        self.adapters: lora.Adapters | None = None
        if options.lora:
            if distributed.sharded():
                raise UsageError(
                    "--lora with FSDP is not supported",
                    remedy="use torchrun without FSDP; each process then holds all weights",
                )
            base = loading.load_policy(source, options.dtype).to(device)
            loading.check_vocabulary(base, tokenizer)
            self.adapters = lora.Adapters(base, options)
            self.policy: Any = self.adapters.model
        else:
            policy = loading.load_policy(source)
            loading.check_vocabulary(policy, tokenizer)
            self.policy = self._placed(policy)
        loading.disable_dropout(self.policy).eval()
        self._add_value()
        self.ref_policy: Any = None
        if not self.adapters:
            self.ref_policy = self._placed(loading.load_policy(source, options.dtype).requires_grad_(False))
        if options.gradient_checkpointing:
            for model in self._trained():
                loading.recompute_activations(model)

    def _placed(self, model: Any) -> Any:
        """Move a model to the device. With FSDP, shard it at once, before the next model is loaded."""
        model.to(self.device)
        if distributed.sharded():
            distributed.shard(model, getattr(torch, self.options.dtype))
        return model

    def _add_value(self) -> None:
        """Set up the values: a head on the policy's states, an adapter with a head, or a separate model."""
        self.head: Any = None
        self.value_model: Any = None
        if self.shared:
            self.head = torch.nn.Linear(hidden_size(self.policy.config), 1, bias=False, device=self.device)
            torch.nn.init.zeros_(self.head.weight)
            self._placed(self.head)
        elif self.adapters:
            self.value_model = OnAdapter(self.adapters, VALUE, 1).to(self.device)
            self.adapters.add(VALUE)
        else:
            self.value_model = self._placed(loading.new_value_model(self.source).eval())

    def _trained(self) -> list[Any]:
        """The models through which gradients flow; with adapters, there is only the policy."""
        return [m for m in (self.policy, None if self.adapters else self.value_model) if m is not None]

    @property
    def policy_parameters(self) -> list[Tensor]:
        """Trainable parameters of the policy."""
        return self.adapters.parameters(POLICY) if self.adapters else list(self.policy.parameters())

    @property
    def value_parameters(self) -> list[Tensor]:
        """Trainable parameters of the value model or value head, without those of the policy."""
        if self.shared:
            return list(self.head.parameters())
        parameters = list(self.value_model.parameters())
        return parameters + self.adapters.parameters(VALUE) if self.adapters else parameters

    def all(self) -> torch.nn.ModuleList:
        """The policy, and the value model or value head."""
        return torch.nn.ModuleList([self.policy, self.head if self.shared else self.value_model])

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Autocast context for ``--dtype``; does nothing with float32."""
        if self.options.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.options.dtype))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Context of an update. Puts models into training mode if ``--gradient-checkpointing`` requires it."""
        checkpointed = self._trained() if self.options.gradient_checkpointing else []
        for model in checkpointed:
            model.train()
        try:
            yield
        finally:
            for model in checkpointed:
                model.eval()

    def read(self, batch: Batch, *, entropy: bool = False) -> TokenStats:
        """Statistics of the response tokens under the policy, with ``values`` if ``--value-model`` is ``shared``.

        Args:
            batch: B prompts with responses of up to T tokens.
            entropy: whether to compute ``entropy``.

        Returns:
            (B, T) tensors at the sampling temperature.
        """
        with self.arithmetic():
            return self._read(self.policy, batch, entropy=entropy, value_head=self.head)

    def _read(self, policy: Any, batch: Batch, **options: Any) -> TokenStats:
        return response_logprobs(policy, batch, self.options.temperature or 1.0, size=self.size, **options)

    def ref_logprobs(self, batch: Batch) -> Tensor:
        """(B, T): log-probabilities under the reference, at the sampling temperature."""
        with self.arithmetic():
            if self.adapters:
                with self.adapters.off():
                    return self._read(self.policy, batch).logprobs
            return self._read(self.ref_policy, batch).logprobs

    def values(self, batch: Batch) -> Tensor:
        """(B, T): values of the separate value model (not for ``shared``, see :meth:`read`)."""
        with self.arithmetic():
            return response_values(self.value_model, batch)

    def valuing(self) -> AbstractContextManager[Any]:
        """Context for the forward and backward pass of :meth:`values`: activates the value adapter, if there is one."""
        return self.adapters.using(VALUE) if self.adapters else nullcontext()

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """Context that gives the reference, unsharded, for sampling."""
        with distributed.whole(self.ref_policy or self.policy), self.arithmetic():
            if self.adapters:
                with self.adapters.off():
                    yield self.policy
            else:
                yield self.ref_policy

    @contextmanager
    def sampling(self) -> Iterator[Any]:
        """Context that gives the policy, unsharded and with its adapter merged, for sampling."""
        merged = self.adapters.merged() if self.adapters else nullcontext()
        with distributed.whole(self.policy), merged, self.arithmetic():
            yield self.policy

    def state_dict(self) -> dict[str, Any]:
        """All trained weights. Collective: every process must call it."""
        if self.adapters:
            trained: dict[str, Any] = self.adapters.state_dict()
        else:
            trained = {POLICY: distributed.gathered_weights(self.policy)}
        if self.shared:
            trained["head"] = distributed.gathered_weights(self.head)
        else:
            trained["value_model"] = distributed.gathered_weights(self.value_model)
        return trained

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`."""
        if self.adapters:
            self.adapters.load_state_dict(state)
        else:
            distributed.spread_weights(self.policy, state[POLICY])
        if self.shared:
            distributed.spread_weights(self.head, state["head"])
        else:
            distributed.spread_weights(self.value_model, state["value_model"])

    def save_policy(self, folder: Path) -> None:
        """Save the current policy (with ``--lora``, its adapter) in ``folder``.

        Collective: every process must call it; the main process writes.
        """
        if self.adapters:
            if distributed.is_main_process():
                self.adapters.save(POLICY, folder)
            return
        weights = distributed.gathered_weights(self.policy)
        if distributed.is_main_process():
            self.policy.save_pretrained(str(folder), state_dict=weights)

    def export(self, kept: Path, out: Path) -> None:
        """Write a standalone model to ``out``. The networks must not be used afterwards.

        Args:
            kept: folder written by :meth:`save_policy`.
            out: folder of the model, in ``--dtype``; with ``--lora``, the adapter is merged in float32.
        """
        if self.adapters:
            self.adapters.export(kept, out / ADAPTER).save_pretrained(str(out))
        else:
            loading.load_policy(kept, self.options.dtype).save_pretrained(str(out))


class OnAdapter(torch.nn.Module):
    """A token classifier on the policy's base model, with its own adapter and its own head.

    Args:
        adapters: the base model with its adapters.
        name: adapter of this classifier.
        labels: outputs of the head; 1 for values.
        bias: whether the head has a bias.
    """

    base_model_prefix = "body"

    def __init__(self, adapters: "lora.Adapters", name: str, labels: int, bias: bool = False) -> None:
        super().__init__()
        self._adapters, self._name = [adapters], name  # in a list, so that the base model is not a submodule
        self.score = torch.nn.Linear(hidden_size(adapters.model.config), labels, bias=bias)
        torch.nn.init.zeros_(self.score.weight)

    def body(self, **inputs: Any) -> Any:
        """Output of the base model with this classifier's adapter."""
        with self._adapters[0].using(self._name):
            return self._adapters[0].trunk(**inputs, use_cache=False)

    def forward(self, **inputs: Any) -> Any:
        """Output with ``logits`` (B, L, labels)."""
        hidden = self.body(**inputs).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden.to(self.score.weight.dtype)))
