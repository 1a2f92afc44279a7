"""Multiple processes of one command, started by ``torchrun``: all train, the main process reads, writes and prints."""

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
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Index of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the main process, which has rank 0."""
    return rank() == 0


def sharded() -> bool:
    """Whether each process holds a shard of the weights, as with ``accelerate launch --use_fsdp``."""
    return world() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


@contextmanager
def main_process_writes(writing: AbstractContextManager[Writer], follower: Writer) -> Iterator[Writer]:
    """Open the output folder in the main process; the other processes wait until it is open.

    Args:
        writing: opens the folder; entered in the main process only.
        follower: yielded in the other processes. If the run has already finished, its ``finished`` is set to the
            manifest.

    Raises:
        TokalignError: in the other processes, if the main process could not open the folder.
    """
    if world() == 1:
        with writing as out:
            yield out
        return
    if is_main_process():
        announced = False
        try:
            with writing as out:
                _broadcast_object(out.finished or "begin")
                announced = True
                yield out
        finally:
            if not announced:
                _broadcast_object("failed")
        _shut_down()
        return
    status = _broadcast_object(None)
    if status == "failed":
        raise TokalignError("the main process failed to start", remedy="see the error message of the main process")
    follower.finished = status if isinstance(status, Manifest) else None
    with signals.patiently():
        yield follower
    _shut_down()


def broadcast(compute: Callable[[], T]) -> T:
    """Call ``compute`` in the main process and return its result in every process."""
    if world() == 1:
        return compute()
    result: T = _broadcast_object(compute() if is_main_process() else None)
    return result


def _broadcast_object(value: Any) -> Any:
    """Return the main process's ``value`` in every process."""
    _init_process_group()
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _init_process_group() -> None:
    PartialState(cpu=not torch.cuda.is_available())


def wait() -> None:
    """Block until all processes have called this."""
    if world() > 1:
        _init_process_group()
        torch.distributed.barrier()


def _shut_down() -> None:
    """Shut down together: a process that exits early can crash one that still communicates."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def local_part(order: Sequence[int]) -> list[int]:
    """The items of ``order`` assigned to this process, round-robin."""
    return list(order[rank() :: world()])


def gathered(mine: list[tuple[int, T]]) -> list[T]:
    """Gather (index, item) pairs of all processes; return the items sorted by index in every process."""
    parts = [mine]
    if world() > 1:
        _init_process_group()
        parts = [[] for _ in range(world())]
        torch.distributed.all_gather_object(parts, mine)
    return [item for _, item in sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])]


def all_reduce_max(n: N) -> N:
    """Maximum of ``n`` over all processes."""
    return max(gathered([(rank(), n)]))


def summed(numbers: dict[str, float]) -> dict[str, float]:
    """Sum each number over all processes."""
    parts = gathered([(rank(), numbers)])
    return {key: sum(part[key] for part in parts) for key in numbers}


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace gradients by their sums over all processes, in place.

    FSDP has already averaged the gradients of sharded weights, so these are multiplied by the number of processes.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if sharded():
        torch._foreach_mul_(gradients, float(world()))
    elif world() > 1:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)


def shard(model: Any, dtype: torch.dtype = torch.float32) -> None:
    """Shard the weights of ``model`` over all processes (FSDP 2), in place, layer by layer.

    ``dtype`` is the type of gathered weights in forward and backward passes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _init_process_group()
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh(next(model.parameters()).device.type, (world(),))
    layers = set(getattr(model, "_no_split_modules", None) or [])
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(model, mesh=mesh, mp_policy=precision)


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Keep all weights gathered in every process within the context.

    This allows processes to run different numbers of forward passes.
    """
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
    """The full weights by name.

    If they are sharded, every process must call this, and only the main process gets the weights, on the CPU.
    """
    if not sharded():
        return dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    return weights


def spread_weights(model: Any, weights: dict[str, Any]) -> None:
    """Load weights from :func:`gathered_weights`. If they are sharded, those of the main process are used."""
    if sharded():
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=options)
    else:
        model.load_state_dict(weights)


def gathered_moments(models: torch.nn.ModuleList, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The full state of an optimiser of ``models``; see :func:`gathered_weights`."""
    if not sharded():
        return optimizer.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(models, optimizer, options=options))


def spread_moments(models: torch.nn.ModuleList, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser state from :func:`gathered_moments`."""
    if sharded():
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_optimizer_state_dict(models, optimizer, state, options=options)
    else:
        optimizer.load_state_dict(state)
