"""The four networks of PPO, however they lie in memory.

=========  ==============================  =======================================================
           value model ``separate``        ``shared``
=========  ==============================  =======================================================
whole      policy, its copy as reference,  policy with a value head on its last states, and its
           a value model                   copy as reference
``--lora`` one set of frozen weights with adapters: for the policy, for the value (or the policy's
           with a head), for a reward model that was trained as an adapter on the same weights;
           without any, they are the reference
=========  ==============================  =======================================================
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import TokenClassifierOutput

from tokalign.config.methods import PpoOptions
from tokalign.errors import UsageError
from tokalign.models import distributed, loading, lora
from tokalign.models.batch import Batch
from tokalign.models.heads import hidden_size
from tokalign.models.loading import ADAPTER
from tokalign.models.lora import POLICY, VALUE
from tokalign.models.policy import TokenStats, response_logprobs, response_values
from tokalign.models.tokenizer import Tokenizer


class Networks:
    """Policy, reference and value model. Trained weights are float32, whatever the arithmetic.

    Args:
        source: the policy's folder or hub id.
        options: what is trained, and in what precision.
        device: where they run.
        tokenizer: of the policy; what it can say beyond the tokenizer's ids counts as impossible.

    Raises:
        InputError: the policy cannot be loaded.
        UsageError: a combination that does not work.
    """

    def __init__(self, source: str, options: PpoOptions, device: torch.device, tokenizer: Tokenizer) -> None:
        self.source, self.options, self.device, self.size = source, options, device, tokenizer.size
        self.shared = options.value_model == "shared"
        self.adapters: lora.Adapters | None = None
        if options.lora:
            if distributed.sharded():
                raise UsageError("--lora with FSDP is not supported", remedy="torchrun alone: each process has a copy")
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
        """On the device; where processes share weights each keeps its part, before the next model comes."""
        model.to(self.device)
        if distributed.sharded():
            distributed.shard(model, getattr(torch, self.options.dtype))
        return model

    def _add_value(self) -> None:
        """What values are read by: a head on the policy's states, an adapter with a head, or a model."""
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
        """The models in which gradients flow; adapters are all in the first."""
        return [m for m in (self.policy, None if self.adapters else self.value_model) if m is not None]

    @property
    def policy_parameters(self) -> list[Tensor]:
        """What the policy learns with."""
        return self.adapters.parameters(POLICY) if self.adapters else list(self.policy.parameters())

    @property
    def value_parameters(self) -> list[Tensor]:
        """What the value model learns with besides."""
        if self.shared:
            return list(self.head.parameters())
        own = list(self.value_model.parameters())
        return own + self.adapters.parameters(VALUE) if self.adapters else own

    def all(self) -> torch.nn.ModuleList:
        """Everything that is trained."""
        found = [self.policy, self.head if self.shared else self.value_model]
        return torch.nn.ModuleList(found)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Half precision where that is asked for."""
        if self.options.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.options.dtype))

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within, activations are recomputed if that is asked for: models do so in training mode alone."""
        checkpointed = self._trained() if self.options.gradient_checkpointing else []
        for model in checkpointed:
            model.train()
        try:
            yield
        finally:
            for model in checkpointed:
                model.eval()

    def read(self, batch: Batch, *, entropy: bool = False) -> TokenStats:
        """The policy on responses; with values where they are read off its states."""
        with self.arithmetic():
            return self._read(self.policy, batch, entropy=entropy, value_head=self.head)

    def _read(self, policy: Any, batch: Batch, **wanted: Any) -> TokenStats:
        return response_logprobs(policy, batch, self.options.temperature or 1.0, size=self.size, **wanted)

    def ref_logprobs(self, batch: Batch) -> Tensor:
        """(B, T): log-probabilities under the reference."""
        with self.arithmetic():
            if self.adapters:
                with self.adapters.off():
                    return self._read(self.policy, batch).logprobs
            return self._read(self.ref_policy, batch).logprobs

    def values(self, batch: Batch) -> Tensor:
        """(B, T), by a value model of its own."""
        with self.arithmetic():
            return response_values(self.value_model, batch)

    def valuing(self) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of :meth:`values`."""
        return self.adapters.using(VALUE) if self.adapters else nullcontext()

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The reference, to sample from."""
        with distributed.whole(self.ref_policy or self.policy), self.arithmetic():
            if self.adapters:
                with self.adapters.off():
                    yield self.policy
            else:
                yield self.ref_policy

    @contextmanager
    def sampling(self) -> Iterator[Any]:
        """The policy, to sample from."""
        with distributed.whole(self.policy), self.arithmetic():
            yield self.policy

    def state_dict(self) -> dict[str, Any]:
        """All that is trained. All processes must ask."""
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
        """Go on from what :meth:`state_dict` gave."""
        if self.adapters:
            self.adapters.load_state_dict(state)
        else:
            distributed.spread_weights(self.policy, state[POLICY])
        if self.shared:
            distributed.spread_weights(self.head, state["head"])
        else:
            distributed.spread_weights(self.value_model, state["value_model"])

    def save_policy(self, folder: Path) -> None:
        """Keep the policy as it is now; all processes must ask, the first one writes."""
        if self.adapters:
            if distributed.is_main_process():
                self.adapters.save(POLICY, folder)
            return
        weights = distributed.gathered_weights(self.policy)
        if distributed.is_main_process():
            self.policy.save_pretrained(str(folder), state_dict=weights)

    def export(self, kept: Path, out: Path) -> None:
        """Make what :meth:`save_policy` kept in ``kept`` a policy of its own in ``out``; the networks end with it."""
        if self.adapters:
            self.adapters.merged(kept, out / ADAPTER).save_pretrained(str(out))
        else:
            loading.load_policy(kept, self.options.dtype).save_pretrained(str(out))


class OnAdapter(torch.nn.Module):
    """A classifier that reads a policy's trunk through an adapter of its own, with a head of its own."""

    base_model_prefix = "body"

    def __init__(self, adapters: "lora.Adapters", name: str, labels: int, bias: bool = False) -> None:
        super().__init__()
        self._adapters, self._name = [adapters], name  # in a list: the trunk is not a part of this module
        self.score = torch.nn.Linear(hidden_size(adapters.model.config), labels, bias=bias)
        torch.nn.init.zeros_(self.score.weight)

    def body(self, **inputs: Any) -> Any:
        """The trunk's output."""
        with self._adapters[0].using(self._name):
            return self._adapters[0].trunk(**inputs, use_cache=False)

    def forward(self, **inputs: Any) -> Any:
        """``logits`` (B, L, labels)."""
        hidden = self.body(**inputs).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden.to(self.score.weight.dtype)))
