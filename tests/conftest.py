"""Shared fixtures: a tiny world, its tokenizer, and small random models."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests/soak.py forks: a child of a process with more would wait for ever
settings.register_profile("tokalign", deadline=None, derandomize=True)
settings.load_profile("tokalign")

ROOT = Path(__file__).resolve().parent.parent


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
