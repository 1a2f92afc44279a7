"""Several processes of one command, as ``torchrun`` starts them: all train, the first one reads, writes and tells."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.writer import Writer
from tokalign.errors import TokalignError
from tokalign.runtime import signals

T = TypeVar("T")
N = TypeVar("N", int, float)


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process is the first."""
    return rank() == 0


def sharded() -> bool:
    """Whether each holds a part of the weights: ``accelerate launch --use_fsdp`` says so."""
    return world() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


@contextmanager
def main_process_writes(writing: AbstractContextManager[Writer], follower: Writer) -> Iterator[Writer]:
    """The first process holds the folder that is written; the others get ``follower``, and its word to begin.

    Raises:
        TokalignError: in the others, when the first could not begin.
    """
    if world() == 1:
        with writing as out:
            yield out
        return
    if is_main_process():
        said = False
        try:
            with writing as out:
                _share(out.finished or "begin")
                said = True
                yield out
        finally:
            if not said:
                _share("failed")
        _part()
        return
    word = _share(None)
    if word == "failed":
        raise TokalignError("the first process could not begin", remedy="see what it said")
    follower.finished = word if isinstance(word, Manifest) else None
    with signals.patiently():
        yield follower
    _part()


def broadcast(ask: Callable[[], T]) -> T:
    """What ``ask`` gives in the first process, in all of them."""
    if world() == 1:
        return ask()
    said: T = _share(ask() if is_main_process() else None)
    return said


def _share(word: Any) -> Any:
    """What the first process has to say, in all of them."""
    _meet()
    box = [word]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _meet() -> None:
    PartialState(cpu=not torch.cuda.is_available())


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        _meet()
        torch.distributed.barrier()


def _part() -> None:
    """End together: one that leaves while another still listens can bring it down."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def local_part(order: Sequence[int]) -> list[int]:
    """This process's part of ``order``, dealt one by one."""
    return list(order[rank() :: world()])


def gathered(mine: list[tuple[int, T]]) -> list[T]:
    """The parts of all processes, each with its place, put in order; in all of them."""
    parts = [mine]
    if world() > 1:
        _meet()
        parts = [[] for _ in range(world())]
        torch.distributed.all_gather_object(parts, mine)
    return [found for _, found in sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])]


def all_reduce_max(n: N) -> N:
    """The largest ``n`` of all processes."""
    return max(gathered([(rank(), n)]))


def summed(numbers: dict[str, float]) -> dict[str, float]:
    """Numbers, summed over all processes."""
    parts = gathered([(rank(), numbers)])
    return {key: sum(part[key] for part in parts) for key in numbers}


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every process the sum of all gradients. Sharded weights have theirs already, but as a mean."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if sharded():
        torch._foreach_mul_(gradients, float(world()))
    elif world() > 1:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)


def shard(model: Any, dtype: torch.dtype = torch.float32) -> None:
    """Leave each process a part of the weights (FSDP 2), layer by layer, then the rest; ``dtype``: once gathered."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _meet()
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh(next(model.parameters()).device.type, (world(),))
    layers = set(getattr(model, "_no_split_modules", None) or [])
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Within, every process holds all the weights: for passes of which some make more than others."""
    parts = [m for m in model.modules() if hasattr(m, "unshard")] if sharded() else []
    for part in parts:
        part.set_reshard_after_forward(False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True)
            part.reshard()


def gathered_weights(model: Any) -> dict[str, Tensor]:
    """The weights as they are now; sharded ones, whole, in the first process alone, and all must ask."""
    if not sharded():
        return dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_model_state_dict(model, options=options)
    return found


def spread_weights(model: Any, weights: dict[str, Any]) -> None:
    """Load what :func:`gathered_weights` gave; where weights are sharded, that of the first process."""
    if sharded():
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=options)
    else:
        model.load_state_dict(weights)


def gathered_moments(models: torch.nn.ModuleList, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimiser of ``models``, as :func:`gathered_weights` for weights."""
    if not sharded():
        return optimizer.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(models, optimizer, options=options))


def spread_moments(models: torch.nn.ModuleList, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what :func:`gathered_moments` gave."""
    if sharded():
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(models, optimizer, state, options=options)
    else:
        optimizer.load_state_dict(state)
