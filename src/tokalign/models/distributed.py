"""Several processes of one command, as ``torchrun`` starts them: all train, the first one reads, writes and tells."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from tokalign.artifacts import Manifest
from tokalign.errors import TokalignError
from tokalign.writer import Writer

T = TypeVar("T")


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this process is the first."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def one_writes(writing: AbstractContextManager[Writer], follower: Writer) -> Iterator[Writer]:
    """The first process holds the folder that is written; the others get ``follower``, and its word to begin.

    Raises:
        TokalignError: in the others, when the first could not begin.
    """
    if world() == 1:
        with writing as out:
            yield out
        return
    if leads():
        said = False
        try:
            with writing as out:
                _share(out.finished or "begin")
                said = True
                yield out
        finally:
            if not said:
                _share("failed")
        return
    word = _share(None)
    if word == "failed":
        raise TokalignError("the first process could not begin", remedy="see what it said")
    follower.finished = word if isinstance(word, Manifest) else None
    yield follower


def first_says(ask: Callable[[], T]) -> T:
    """What ``ask`` gives in the first process, in all of them."""
    if world() == 1:
        return ask()
    said: T = _share(ask() if leads() else None)
    return said


def _share(word: Any) -> Any:
    """What the first process has to say, in all of them."""
    PartialState(cpu=not torch.cuda.is_available())
    box = [word]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
