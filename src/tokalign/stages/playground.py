"""``tokalign playground``: generate the synthetic dataset."""

from collections.abc import Iterator
from typing import Any

from tokalign.artifacts.result import StageResult
from tokalign.artifacts.writer import writing
from tokalign.config.stages import PlaygroundConfig
from tokalign.playground.world import World


def run(config: PlaygroundConfig) -> StageResult:
    """Write the artifacts ``preferences``, ``sft``, ``prompts``, ``heldout`` and ``test`` below ``config.out``.

    The three sets of prompts are disjoint.

    Returns:
        The manifest of each artifact, by name.
    """
    world = World(config.seed, config.loose)
    written = {}
    # The sets share one random state and are generated in this order, so each depends on the sizes of those before it.
    sets: list[tuple[str, str, int, Iterator[dict[str, Any]]]] = [
        ("preferences", "preferences", config.preferences, world.preferences(config.preferences)),
        ("sft", "sft", config.sft, world.sft(config.sft)),
        ("prompts", "prompts", config.prompts, world.prompts(config.prompts, "train")),
        ("heldout", "prompts", config.heldout, world.prompts(config.heldout, "heldout")),
        ("test", "prompts", config.test, world.prompts(config.test, "test")),
    ]
    for name, kind, n, rows in sets:
        generated = list(rows)  # also if the artifact exists already, because later sets depend on the random state
        kept = generated[: config.limit]
        with writing(kind, config, {}, config.out / name) as out:
            if out.finished is None:
                out.jsonl("data.jsonl", kept)
                written[name] = out.commit({"in": n, "out": len(kept), "skipped": n - len(kept)})
            else:
                written[name] = out.finished
    return StageResult(config.out, written)
