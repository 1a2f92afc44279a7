"""Work in several processes comes back in order, and a process that fails is told."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tokalign.errors import TokalignError
from tokalign.runtime import pool


def begin(what: str) -> Callable[[int], int]:
    def work(n: int) -> int:
        if n == 3 and what == "die":
            os._exit(9)
        if n == 3 and what == "fail":
            raise ValueError("three")
        return n * n

    return work


@pytest.mark.parametrize("n", [1, 2])
def test_results_come_in_order_and_no_more_than_needed_is_read(n: int) -> None:
    read: list[int] = []

    def parts() -> Any:
        for k in range(9):
            read.append(k)
            yield k

    for done, (part, made) in enumerate(pool.each(parts(), begin, ("work",), n)):
        assert (part, made) == (done, done * done)
        assert len(read) <= done + 2 * n


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(TokalignError, match="a worker process died"):
        list(pool.each(range(9), begin, ("die",), 2))


@pytest.mark.parametrize("n", [1, 2])
def test_an_error_in_a_process_is_the_error(n: int) -> None:
    with pytest.raises(ValueError, match="three"):
        list(pool.each(range(9), begin, ("fail",), n))


def test_few_rows_are_not_worth_a_second_process() -> None:
    assert pool.how_many(0, 100) == 1
    assert pool.how_many(3, 100) == 3
    assert 1 <= pool.how_many(0, 10**9) <= (os.cpu_count() or 1)
