"""``tokalign playground``: the offline world, as artifacts."""

from collections.abc import Iterator
from typing import Any

from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.writer import writing
from tokalign.config.stages import PlaygroundConfig
from tokalign.playground.world import World

Written = dict[str, Manifest]


def run(config: PlaygroundConfig) -> Written:
    """Write ``preferences, sft, prompts, heldout, test`` below ``config.out``; prompts never overlap."""
    world = World(config.seed, config.loose)
    written = {}
    # One world draws all sets, in this order: each depends on the sizes of those before it.
    sets: list[tuple[str, str, int, Iterator[dict[str, Any]]]] = [
        ("preferences", "preferences", config.preferences, world.preferences(config.preferences)),
        ("sft", "sft", config.sft, world.sft(config.sft)),
        ("prompts", "prompts", config.prompts, world.prompts(config.prompts, "train")),
        ("heldout", "prompts", config.heldout, world.prompts(config.heldout, "heldout")),
        ("test", "prompts", config.test, world.prompts(config.test, "test")),
    ]
    for name, kind, n, rows in sets:
        drawn = list(rows)  # drawn even if the set is there already: later sets depend on it
        kept = drawn[: config.limit]
        with writing(kind, config, {}, config.out / name) as out:
            if out.finished is None:
                out.jsonl("data.jsonl", kept)
                written[name] = out.commit({"in": n, "out": len(kept), "skipped": n - len(kept)})
            else:
                written[name] = out.finished
    return written
