"""Shared fixtures: a tiny world, its tokenizer, and small random models."""

import gc
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests/soak.py forks: a child of a process with more would wait for ever
gc.disable()  # until all is imported: there is nothing to collect
settings.register_profile("tokalign", deadline=None, derandomize=True)
settings.load_profile("tokalign")

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """With several workers, one server of forked commands serves all of them (see tests/forked.py)."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        from tests import forked

        os.environ[forked.SHARED] = forked.start()


TOGETHER = tuple(f"tests/test_{name}.py" for name in ("pipeline", "resume", "distributed", "ppo_stage", "docs"))
"""Files whose tests run in one worker, since a fixture that they share takes long to make."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests one by one, but those of :data:`TOGETHER` by file, and these first."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the Trainer collects garbage in every run, and need not look at it again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: short ones fill the gaps at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    from tokalign.playground.world import World

    return list(World(0).sft(200))


@pytest.fixture(scope="session")
def tokenizer(rows: list[dict[str, Any]]) -> Any:
    from tokalign.models.tiny_tokenizer import train_tiny

    return train_tiny((text for r in rows for text in (r["prompt"], r["response"])), 500)


@pytest.fixture
def policy(tokenizer: Any) -> Any:
    from tokalign.models.loading import new_tiny

    return new_tiny(tokenizer, seed=0, max_positions=256).eval()
