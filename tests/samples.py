"""Makes the small committed samples in ``data/``, one of every kind that is not a model, from the code as it is.

``python -m tests.samples`` rewrites them; ``test_samples.py`` checks that they are what the code would write.
"""

import os
import random
import shutil
import sys
from pathlib import Path

from tokalign.artifacts.writer import writing
from tokalign.config import stages
from tokalign.config.options import StageOptions
from tokalign.playground.world import make_requests, prompt_text, respond
from tokalign.stages import diff, edit, playground, winrate

DATA = Path(__file__).resolve().parent.parent / "data"


def make(folder: Path) -> None:
    """Write the samples below ``folder``."""
    playground.run(
        stages.PlaygroundConfig(out=folder, preferences=200, sft=200, prompts=200, heldout=32, test=64, quiet=True)
    )
    edit.run(stages.EditConfig(source=str(folder / "preferences"), out=folder / "edits", quiet=True))
    diff.run(
        stages.DiffConfig(edits=str(folder / "edits"), out=folder / "labels", tokenizer="tiny", vocab=500, quiet=True)
    )
    write_responses(folder / "responses-plain", flaw_rate=0.5)
    write_responses(folder / "responses-good", flaw_rate=0.1)
    winrate.run(
        stages.EvalWinrateConfig(
            out=folder / "winrates",
            prompts=str(folder / "responses-plain" / "data.jsonl"),
            candidate=[f"good={folder / 'responses-good'}"],
            reference=str(folder / "responses-plain"),
            quiet=True,
        )
    )


def write_responses(out: Path, flaw_rate: float) -> None:
    """Responses of the world's own making, to the same prompts whatever the flaw rate."""
    asking, answering = random.Random("prompts"), random.Random(f"responses {flaw_rate}")
    rows = []
    for i in range(64):
        requests = make_requests(asking)
        response = respond(requests, answering, flaw_rate)[0]
        row = {"id": f"sample-{i}", "sample": 0, "prompt": prompt_text(requests), "response": response}
        rows.append({**row, "finished": True, "generator": f"playground at flaw rate {flaw_rate}"})
    with writing("responses", StageOptions(out=out), {}) as writer:
        writer.commit({"in": 64, "out": writer.jsonl("data.jsonl", rows)})


if __name__ == "__main__":
    sys.argv = ["tokalign"]  # the manifests record the command line
    os.chdir(DATA.parent)  # … and the paths as they were given
    shutil.rmtree(DATA, ignore_errors=True)
    make(Path(DATA.name))
