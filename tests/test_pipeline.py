"""The whole chain through the real command line, small, with results that could have been otherwise."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

CONFIG = f"--config {shlex.quote(str(ROOT / 'configs' / 'playground.toml'))}"


def run(cwd: Path, line: str) -> subprocess.CompletedProcess[str]:
    return forked.run(cwd, *shlex.split(line))


def tokalign(cwd: Path, line: str) -> Any:
    """Run a command that must succeed; its manifest."""
    done = run(cwd, f"{line} --json --quiet")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """world → edits → sft → labels → both reward models → both PPO runs → win rates."""
    cwd = tmp_path_factory.mktemp("chain")
    tokalign(cwd, "playground --out w --preferences 320 --sft 1500 --prompts 64 --heldout 32 --test 64")
    tokalign(cwd, "edit w/preferences --out edits")
    tokalign(cwd, f"train-sft w/sft --model tiny --out sft {CONFIG} --steps 100 --batch-size 16")
    tokalign(cwd, f"diff edits --tokenizer sft --out labels {CONFIG}")
    for level in ("token", "sequence"):
        tokalign(cwd, f"train-rm labels --model sft --level {level} --out rm-{level} {CONFIG} --epochs 2")
        tokalign(
            cwd,
            f"train-ppo w/prompts --policy sft --reward-model rm-{level} --granularity {level} --out ppo-{level} "
            "--eval-prompts w/heldout --eval-every 2 --steps 3 --batch-size 32 --max-new-tokens 64 "
            f"--report-to tensorboard {CONFIG}",
        )
    candidates = "--candidate token=ppo-token --candidate sequence=ppo-sequence"
    tokalign(cwd, f"eval-winrate --prompts w/test --reference sft {candidates} --out wins {CONFIG}")
    return cwd


def stats(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["stats"]
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_token_reward_model_learns_what_the_sequence_model_does_not(chain: Path) -> None:
    token, sequence = stats(chain / "rm-token"), stats(chain / "rm-sequence")
    assert token["edited_over_original"]["mean"] >= 0.9
    assert token["flips"]["accuracy"] > sequence["flips"]["accuracy"]
    assert token["classes"]["bad"]["f1"] > 0.7


def test_metrics_are_logged_every_step(chain: Path) -> None:
    for arm in ("token", "sequence"):
        logged = lines(chain / f"ppo-{arm}" / "metrics.jsonl")
        assert [step["step"] for step in logged] == [1, 2, 3]
        assert all(step["length"] > 5 and abs(step["kl"]) < 20 for step in logged)
        assert ["win_rate" in step for step in logged] == [False, True, True]
        assert list((chain / f"ppo-{arm}" / "tensorboard").glob("events*"))


def test_sampler_and_training_agree_at_run_time(chain: Path) -> None:
    assert stats(chain / "ppo-token")["reused_sampler_logprobs"] is True


def test_best_and_last_checkpoints_are_policies(chain: Path) -> None:
    for folder, out in (("ppo-token", "gen-best"), ("ppo-token/checkpoints/last", "gen-last")):
        made = tokalign(chain, f"generate w/test --policy {folder} --limit 4 --max-new-tokens 16 --out {out}")
        assert made["rows"]["out"] == 4


def test_win_rates_count_every_prompt(chain: Path) -> None:
    for c in json.loads((chain / "wins" / "data.json").read_text())["candidates"].values():
        assert c["n_total"] == 64 == c["n_wins"] + c["n_ties"] + c["n_losses"]
        assert c["win_rate"] == pytest.approx(100 * (c["n_wins"] + c["n_ties"] / 2) / 64)


def test_win_rates_can_be_recomputed_from_the_responses_kept(chain: Path) -> None:
    """The candidates' responses, given back as artifacts, lead to the same win rate without any model."""
    again = tokalign(
        chain,
        "eval-winrate --prompts w/test --reference wins/responses/reference "
        "--candidate token=wins/responses/token --out wins-again",
    )
    assert again["stats"]["candidates"]["token"] == stats(chain / "wins")["candidates"]["token"]


def test_lineage_leads_back_to_the_preferences(chain: Path) -> None:
    folder, kinds = chain / "rm-token", []
    while True:
        manifest = json.loads((folder / "manifest.json").read_text())
        kinds.append(manifest["kind"])
        if not manifest["inputs"]:
            break
        folder = folder / manifest["inputs"][0]["path"]
    assert kinds == ["reward-model", "token-labels", "edits", "preferences"]


def test_score_rates_every_token(chain: Path) -> None:
    tokalign(chain, "score edits --reward-model rm-token --limit 20 --out rewards")
    rows = lines(chain / "rewards" / "data.jsonl")
    assert len(rows) == 40
    for row in rows:
        assert len(row["tokens"]) == len(row["offsets"]) == len(row["reward"]) == len(row["p_bad"])
        sums = [sum(p) for p in zip(row["p_bad"], row["p_neutral"], row["p_good"], strict=True)]
        assert sums == pytest.approx([1.0] * len(sums), abs=1e-4)
        assert row["score_sum"] == pytest.approx(sum(row["reward"]), abs=1e-3)
    original = [r["score_mean"] for r in rows if r["sample"] == 0]
    edited = [r["score_mean"] for r in rows if r["sample"] == 1]
    assert sum(e > o for e, o in zip(edited, original, strict=True)) >= 17


def test_best_of_n_keeps_one_response_a_prompt(chain: Path) -> None:
    draw = "generate w/test --policy sft --limit 8 --n 4 --max-new-tokens 48"
    many = tokalign(chain, f"{draw} --out four")
    best = tokalign(chain, f"{draw} --reward-model rm-token --out best")
    assert (many["rows"]["out"], best["rows"]["out"]) == (32, 8)
    drawn = {(r["id"], r["sample"]): r["response"] for r in lines(chain / "four" / "data.jsonl")}
    kept = lines(chain / "best" / "data.jsonl")
    assert all(drawn[r["id"], r["sample"]] == r["response"] for r in kept)
    assert len({r["sample"] for r in kept}) > 1


def test_the_same_seed_gives_the_same_weights(chain: Path) -> None:
    for out in ("again-1", "again-2"):
        tokalign(chain, f"train-rm labels --model sft --level token --out {out} {CONFIG} --steps 4")
    one, two = ((chain / out / "model.safetensors").read_bytes() for out in ("again-1", "again-2"))
    assert one == two


def test_sft_on_edits_learns_the_edited_side(chain: Path) -> None:
    made = tokalign(chain, f"train-sft edits --model sft --out sft-edits {CONFIG} --steps 2")
    assert made["inputs"][0]["kind"] == "edits"
    assert made["rows"]["out"] == 320


def test_wrong_pairings_are_refused_with_a_remedy(chain: Path) -> None:
    done = run(chain, "train-ppo w/prompts --policy sft --reward-model rm-sequence --out no")
    assert done.returncode == 2
    assert "--granularity sequence" in done.stderr
    done = run(chain, "train-rm edits --model sft --level token --out no")
    assert done.returncode == 5
    assert "tokalign diff" in done.stderr


def test_show_prints_the_tables_of_the_run(chain: Path) -> None:
    shown = run(chain, "show .").stdout
    for words in ("Reward models: held-out accuracy", "Win rate over the reference", "ppo-token", "device"):
        assert words in shown
    assert "{+" in run(chain, "show labels").stdout
