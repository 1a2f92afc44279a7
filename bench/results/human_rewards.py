"""AUROC of reward models for the tokens that people marked as errors, on held-out questions of QA-Feedback. Resumable.

Follows docs/recipes/qa-feedback.md: a pretrained backbone is trained on the token labels, or on the pairs, of people's
corrections of a model's answers (recorded edits). Passages are left out of the prompts because a small backbone reads
512 tokens. A token of a held-out answer counts as bad if it overlaps a span that people marked. Tokens are ranked by
p(bad), by the sequence model's score of the whole answer, and by a constant (``majority``).

    python bench/results/human_rewards.py qa_feedback.json MODEL [--runs DIR] [--out docs/results/human_rewards.json]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tokalign import __version__
from tokalign.artifacts import token_labels
from tokalign.artifacts.manifest import open_artifact
from tokalign.artifacts.schemas import TokenLabels
from tokalign.core.intervals import auroc_interval
from tokalign.models.reward_metrics import is_heldout

HELDOUT = 0.25
OPTIONS = ["--max-length", "512", "--cut-prompts", "--heldout", str(HELDOUT), "--epochs", "10", "--lr", "3e-4"]
MODELS = {"token": ["--level", "token"], "sequence": ["--level", "sequence", "--pairs", "edited"]}


def run(out: Path, command: str, *args: object) -> None:
    """Run one command; a finished one does nothing."""
    program = str(Path(sys.executable).parent / "tokalign")
    subprocess.run(
        [str(part) for part in (program, command, *args, "--out", out, "--quiet")], check=True, env=os.environ
    )


def scored(folder: Path) -> dict[str, dict[str, Any]]:
    """Rewards of the original answers, by id."""
    rows = map(json.loads, (folder / "data.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["id"]: row for row in rows if row["sample"] == 0}


def main() -> None:
    """Run the missing commands, print the areas under the ROC curve and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--runs", type=Path, default=Path("runs/human-rewards"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    f = args.runs
    run(f / "edits", "edit", args.data, "--format", "qa-feedback", "--editor", "recorded", "--no-passages")
    run(f / "labels", "diff", f / "edits", "--tokenizer", args.model, "--max-length", 100_000)
    for name, options in MODELS.items():
        run(f / f"rm-{name}", "train-rm", f / "labels", "--model", args.model, *options, *OPTIONS)
        run(
            f / f"scores-{name}",
            "score",
            f / "edits",
            "--reward-model",
            f / f"rm-{name}",
            "--max-length",
            512,
            "--cut-prompts",
        )
    marks = {
        f"qa-{k}": [(e["start"], e["end"]) for e in row["feedback"]["errors"]]
        for k, row in enumerate(json.loads(args.data.read_text(encoding="utf-8")))
    }
    token, sequence = scored(f / "scores-token"), scored(f / "scores-sequence")
    rows = [r for r in token_labels.read_labels(open_artifact(f / "labels")) if r.id in token]
    heldout, seen = ([r for r in rows if is_heldout(r, HELDOUT) == wanted] for wanted in (True, False))

    def marked(answers: list[TokenLabels]) -> list[NDArray[np.bool_]]:
        spans = [(marks[r.id], token[r.id]["offsets"]) for r in answers]
        return [np.array([any(i < e and s < j for s, e in of) for i, j in offsets]) for of, offsets in spans]

    truths = marked(heldout)
    by_token = [np.array(token[r.id]["p_bad"]) for r in heldout]
    scores = np.array([sequence[r.id]["score_sum"] for r in heldout])
    ranks = 1 - (np.argsort(np.argsort(scores)) + 0.5) / len(scores)  # between 0 and 1, highest for the worst answer
    by_answer = [np.full(len(t), rank) for t, rank in zip(truths, ranks, strict=True)]
    result: dict[str, Any] = {"answers": len(heldout), "tokens": sum(map(len, truths))}
    result["share_bad"] = round(float(np.concatenate(truths).mean()), 4)
    for name, guess in (("token", by_token), ("sequence", by_answer), ("majority", [np.zeros(len(t)) for t in truths])):
        area = float(roc_auc_score(np.concatenate(truths), np.concatenate(guess)))
        interval = auroc_interval(guess, truths) or [0.0, 0.0]
        result[name] = {"auroc": round(area, 4), "ci95": [round(q, 4) for q in interval]}
        print(f"{name:<9} AUROC {area:.3f} {result[name]['ci95']}")
    known = np.concatenate([np.array(token[r.id]["p_bad"]) for r in seen])
    result["token_on_seen_answers"] = round(float(roc_auc_score(np.concatenate(marked(seen)), known)), 4)
    manifest = json.loads((f / "rm-token" / "manifest.json").read_text(encoding="utf-8"))
    area = manifest["stats"]["auroc"]["bad"]
    pairs = manifest["stats"]["edited_over_original"]
    result["edited_over_original"] = {key: pairs[key] for key in ("mean", "ci95", "pairs")}
    result["token_on_labels"] = {"auroc": round(area["value"], 4), "ci95": [round(q, 4) for q in area["ci95"]]}
    print(f"token model on the answers it was trained on: AUROC {result['token_on_seen_answers']:.3f}")
    print(
        f"{result['answers']} held-out answers, {result['tokens']} tokens, {result['share_bad']:.1%} marked by people"
    )
    if args.out:
        whole = {"command": "python bench/results/human_rewards.py qa_feedback.json MODEL", "tokalign": __version__}
        args.out.write_text(json.dumps({**whole, "heldout": HELDOUT, "options": OPTIONS, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
