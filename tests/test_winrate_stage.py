"""``eval-winrate`` through the real command line: who judges, who is judged, and AlpacaEval's own numbers."""

import csv
import io
import json
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_claude import KEY, FakeClaude
from tests.fake_judge import judge
from tests.forked import run
from tests.test_cli import write_jsonl

N = 20
PROMPTS = [{"id": f"p{k}", "prompt": f"Question {k}?"} for k in range(N)]


def answers(path: Path, texts: list[str], prompts: list[dict[str, Any]] = PROMPTS) -> None:
    write_jsonl(path, *({**p, "response": t} for p, t in zip(prompts, texts, strict=True)))


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Twenty prompts; a reference; ``better`` wins 12, ties 5 and loses 3; ``mixed`` wins 10 and loses 10."""
    write_jsonl(tmp_path / "prompts.jsonl", *PROMPTS)
    answers(tmp_path / "reference.jsonl", [f"a good thing {k}" for k in range(N)])
    better = ["good and good"] * 12 + ["one good thing"] * 5 + ["none"] * 3
    answers(tmp_path / "better.jsonl", better)
    answers(tmp_path / "mixed.jsonl", ["good and good" if k % 2 else "none" for k in range(N)])
    return tmp_path


@pytest.fixture
def fake() -> Iterator[FakeClaude]:
    with FakeClaude(answer=judge) as server:
        yield server


WORK = ["eval-winrate", "--prompts", "prompts.jsonl", "--reference", "reference.jsonl", "--out", "won"]
BOTH = ["--candidate", "better=better.jsonl", "--candidate", "mixed=mixed.jsonl"]


def claude(fake: FakeClaude, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    paid = ["--judge", "claude", "--model", "m", "--allow-unpriced"]
    done = run(cwd, *WORK, *paid, *args, ANTHROPIC_BASE_URL=fake.url, ANTHROPIC_API_KEY=KEY)
    assert KEY not in done.stdout + done.stderr
    assert all(KEY.encode() not in p.read_bytes() for p in cwd.rglob("*") if p.is_file())
    return done


def stats(cwd: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cwd / "won" / "manifest.json").read_text())["stats"]
    return found


def judgements(cwd: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cwd / "won" / "judgements" / "data.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_claude_judges_in_both_orders(fake: FakeClaude, there: Path) -> None:
    done = claude(fake, there, *BOTH)
    assert done.returncode == 0, done.stderr
    better, mixed = stats(there)["candidates"].values()
    assert (better["n_wins"], better["n_ties"], better["n_losses"], better["win_rate"]) == (12, 5, 3, 72.5)
    assert (mixed["win_rate"], mixed["n_ties"]) == (50.0, 0)
    assert (better["agreement"], better["n_disagreements"], better["prefers_first"]) == (100.0, 0, 50.0)
    (pair,) = stats(there)["paired"]
    assert (pair["a"], pair["b"], pair["n"], pair["difference"]) == ("mixed", "better", N, -22.5)
    rows = judgements(there)
    assert len(rows) == 2 * 2 * N
    assert set(fake.charged.values()) == {1}
    assert {(r["id"], r["candidate"], r["order"]) for r in rows if r["preference"] == 2.0 and r["id"] == "p0"} == {
        ("p0", "better", "reference_first"), ("p0", "better", "candidate_first")
    }  # fmt: skip
    assert rows[0]["judge"] == "claude m judge-1 rubric-1"
    assert rows[0]["reason"] == "It is good."
    assert "same verdict for 100 % of pairs" in done.stderr
    asked = sum(fake.seen.values())
    assert claude(fake, there, *BOTH).returncode == 0
    assert sum(fake.seen.values()) == asked


@pytest.mark.slow
def test_a_judge_that_always_prefers_the_first_is_found_out(fake: FakeClaude, there: Path) -> None:
    for name in ("prompts", "reference", "better"):
        rows = [json.loads(line) for line in (there / f"{name}.jsonl").read_text().splitlines()]
        write_jsonl(there / f"{name}.jsonl", *({**r, "prompt": f"{r['prompt']} [[always: first]]"} for r in rows))
    done = claude(fake, there, "--candidate", "better=better.jsonl")
    assert done.returncode == 0, done.stderr
    (better,) = stats(there)["candidates"].values()
    assert (better["win_rate"], better["n_ties"], better["n_disagreements"]) == (50.0, N, N)
    assert (better["prefers_first"], better["same_position"], better["agreement"]) == (100.0, 100.0, 0.0)
    assert "first response preferred in 100 %" in done.stderr


@pytest.mark.slow
def test_what_has_no_verdict_is_counted_and_what_failed_is_tried_again(fake: FakeClaude, there: Path) -> None:
    told = {2: "[[prose]]", 5: "[[faults: refusal]]", 9: "[[faults: 400]]", 12: "[[faults: max_tokens]]"}
    prompts = [{**p, "prompt": f"{p['prompt']} {told.get(k, '')}".strip()} for k, p in enumerate(PROMPTS)]
    write_jsonl(there / "prompts.jsonl", *prompts)
    answers(there / "reference.jsonl", [f"a good thing {k}" for k in range(N)], prompts)
    answers(there / "better.jsonl", ["good and good"] * N, prompts)
    done = claude(fake, there, "--candidate", "better=better.jsonl")
    assert done.returncode == 3, done.stderr
    (better,) = stats(there)["candidates"].values()
    assert (better["n_total"], better["n_unjudged"]) == (N - 3, 3)
    assert "17 comparisons; 3 more without a verdict" in done.stderr
    reasons = {(r["id"], r["reason"]) for r in judgements(there) if r["preference"] is None}
    assert reasons == {("p2", "unparsed"), ("p5", "refusal (bio)"), ("p9", "failed: 400 invalid_request_error: no")}
    charged = sum(fake.charged.values())
    assert claude(fake, there, "--candidate", "better=better.jsonl").returncode == 0
    assert stats(there)["candidates"]["better"]["n_unjudged"] == 2
    assert sum(fake.charged.values()) == charged + 2, "p9 failed in both orders; nothing else is asked again"


@pytest.mark.slow
def test_a_cap_stops_and_a_batch_goes_on(fake: FakeClaude, there: Path) -> None:
    (there / "prices.toml").write_text(
        "[m]\ninput = 1.0\noutput = 5.0\ncache_write_5m = 1.25\ncache_write_1h = 2.0\ncache_read = 0.1\n"
    )
    priced = ["--candidate", "better=better.jsonl", "--prices", "prices.toml", "--max-tokens", "400"]
    said = claude(fake, there, *priced, "--dry-run", "--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["rows"] == 2 * N
    stopped = claude(fake, there, *priced, "--max-cost", "0.02")
    assert stopped.returncode == 4, stopped.stderr
    some = sum(fake.charged.values())
    assert 0 < some < 2 * N
    done = claude(fake, there, *priced, "--batch", "--poll", "0.02")
    assert done.returncode == 0, done.stderr
    assert set(fake.charged.values()) == {1}
    assert sum(fake.charged.values()) == 2 * N
    assert fake.paths["/v1/messages/batches"] == 1


@pytest.mark.slow
def test_one_order_and_a_rubric_of_ones_own(fake: FakeClaude, there: Path) -> None:
    (there / "mine.md").write_text("The one that rhymes.")
    done = claude(fake, there, "--candidate", "better=better.jsonl", "--no-both-orders", "--rubric", "mine.md")
    assert done.returncode == 0, done.stderr
    (better,) = stats(there)["candidates"].values()
    assert (better["win_rate"], len(judgements(there))) == (72.5, N)
    assert "agreement" not in better
    assert "mine.md" in judgements(there)[0]["judge"]


@pytest.mark.slow
def test_equal_responses_are_a_tie_that_costs_nothing(fake: FakeClaude, there: Path) -> None:
    done = claude(fake, there, "--candidate", "same=reference.jsonl")
    assert done.returncode == 0, done.stderr
    assert stats(there)["candidates"]["same"]["win_rate"] == 50.0
    assert not fake.seen


def recorded(there: Path, *rows: tuple[int, str, float | None], name: str = "better") -> None:
    write_jsonl(
        there / "judged.jsonl",
        *(
            {"id": f"p{k}", "candidate": name, "reference": "r", "judge": "ann", "order": order, "preference": p}
            for k, order, p in rows
        ),
    )


def test_judgements_of_people_are_taken_as_they_are(there: Path) -> None:
    first, second = "reference_first", "candidate_first"
    recorded(there, *((k, first, 2.0) for k in range(N)), *((k, second, 2.0 if k < 15 else 1.0) for k in range(N)))
    work = [*WORK, "--judge", "recorded", "--judgements", "judged.jsonl"]
    done = run(there, *work, "--candidate", "better=better.jsonl")
    assert done.returncode == 0, done.stderr
    better = stats(there)["candidates"]["better"]
    assert (better["win_rate"], better["n_ties"], better["n_disagreements"]) == (87.5, 5, 5)
    assert better["avg_length"] == statistics.mean([13] * 12 + [14] * 5 + [4] * 3)
    other = run(there, *work, "--candidate", "mixed=mixed.jsonl", "--fresh")
    assert other.returncode == 5
    assert "no judgement of 20 of 20 pairs" in other.stderr
    assert run(there, *WORK, "--judge", "recorded", "--candidate", "better=better.jsonl").returncode == 2


def test_alpaca_eval_outputs_are_matched_by_what_was_asked(there: Path) -> None:
    """Two models' outputs, the second in another order: ids made up by position say nothing."""
    outputs = [{"instruction": p["prompt"], "output": f"text {p['id']}", "generator": "g"} for p in PROMPTS]
    for name, rows in (("prompts", outputs), ("reference", outputs), ("better", outputs[::-1])):
        (there / f"{name}.json").write_text(json.dumps(rows))
    first = "reference_first"
    write_jsonl(
        there / "judged.jsonl",
        *(
            {"id": f"ae-{k}", "candidate": "b", "reference": "r", "judge": "x", "order": first, "preference": 2}
            for k in range(N)
        ),
    )
    names = ["--prompts", "prompts.json", "--reference", "reference.json", "--candidate", "b=better.json"]
    done = run(there, "eval-winrate", *names, "--judge", "recorded", "--judgements", "judged.jsonl", "--out", "won")
    assert done.returncode == 0, done.stderr
    assert stats(there)["candidates"]["b"]["n_wins"] == N
    (there / "better.json").write_text(json.dumps(outputs[1:]))
    done = run(there, "eval-winrate", *names, "--judge", "recorded", "--judgements", "judged.jsonl", "--out", "other")
    assert done.returncode == 5
    assert "no response to prompt" in done.stderr


def annotation(k: int, preference: Any, name: str = "model") -> dict[str, Any]:
    return {
        "instruction": f"I{k}", "output_1": "x" * (10 + k), "generator_1": "gpt", "output_2": "y" * (30 - k % 7),
        "generator_2": name, "annotator": "weighted", "preference": preference,
    }  # fmt: skip


def annotated(cwd: Path, rows: Any, *args: str) -> subprocess.CompletedProcess[str]:
    (cwd / "annotations.json").write_text(json.dumps(rows))
    return run(cwd, "eval-winrate", "--annotations", "annotations.json", "--out", "won", *args)


def test_alpaca_evals_numbers_come_out_of_its_annotations(tmp_path: Path) -> None:
    given = [1, 2, 1.5, 0, None, 1.0000001, 1.73, 2.0, 0, 1.49999, 1.2, None]
    done = annotated(tmp_path, [annotation(k, p) for k, p in enumerate(given)])
    assert done.returncode == 0, done.stderr
    found = stats(tmp_path)["candidates"]["model"]
    shares = [0.5 if p == 0 else p - 1 for p in given if p is not None]
    assert found["win_rate"] == pytest.approx(100 * statistics.fmean(shares), abs=1e-9)
    assert found["standard_error"] == pytest.approx(100 * statistics.stdev(shares) / len(shares) ** 0.5, abs=1e-9)
    assert (found["n_total"], found["n_unjudged"]) == (10, 2)
    # 2, 1.73 and 2.0 round to wins; 1, 1.0000001, 1.49999 and 1.2 to losses; 1.5 and both zeros are ties.
    assert (found["n_wins"], found["n_losses"], found["n_ties"]) == (3, 4, 3)
    assert found["discrete_win_rate"] == pytest.approx(100 * (3 + 1.5) / 10)
    assert found["avg_length"] == statistics.mean(30 - k % 7 for k in range(12))
    assert found["length_controlled_winrate"] is not None


def test_several_models_in_one_file_are_compared(tmp_path: Path) -> None:
    rows = [annotation(k, 2 if k % 3 else 1, "a") for k in range(30)] + [annotation(k, 1.5, "b") for k in range(30)]
    assert annotated(tmp_path, rows).returncode == 0
    (pair,) = stats(tmp_path)["paired"]
    assert pair["difference"] == pytest.approx(50 - 100 * 20 / 30)


def test_length_control_with_difficulty_takes_the_users_file(tmp_path: Path) -> None:
    rows = [annotation(k, 1 + (k * 7 % 11) / 10) for k in range(40)]
    control = ["--length-control", "alpaca-eval"]
    assert annotated(tmp_path, rows, *control).returncode == 2
    lines = ["index,instruction_difficulty", *(f"{k},{(k % 5) - 2}" for k in range(40))]
    (tmp_path / "hard.csv").write_text("\n".join(lines))
    done = annotated(tmp_path, rows, *control, "--difficulty", "hard.csv")
    assert done.returncode == 0, done.stderr
    assert 20 < stats(tmp_path)["candidates"]["model"]["length_controlled_winrate"] < 80
    (tmp_path / "hard.csv").write_text("\n".join(lines[:20]))
    short = annotated(tmp_path, rows, *control, "--difficulty", "hard.csv", "--fresh")
    assert short.returncode == 5
    assert "no difficulty for instruction 19" in short.stderr


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([annotation(0, 3)], "annotation 0"),
        ([annotation(0, 2), annotation(1, "2")], "annotation 1"),
        ([annotation(0, True)], "preference"),
        ([annotation(0, 0.5)], "got 0.5"),
        ([{"preference": 1}], "not an annotation"),
        ([], "not a list"),
        ({}, "not a list"),
        ([annotation(0, None)], "has no judgement"),
        ([annotation(0, 1), {**annotation(1, 1), "generator_1": "other"}], "several references"),
    ],
)
def test_annotations_that_are_none_are_refused(tmp_path: Path, rows: Any, said: str) -> None:
    done = annotated(tmp_path, rows)
    assert done.returncode == 5, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "won").exists()


def test_tables_for_papers(tmp_path: Path) -> None:
    rows = [annotation(k, 1 + k % 2, "a_1 & <b>") for k in range(10)] + [annotation(k, 2, "sure") for k in range(10)]
    assert annotated(tmp_path, rows).returncode == 0
    markdown, latex, table = (
        annotated(tmp_path, rows, "--table-format", layout, "--quiet").stdout for layout in ("markdown", "latex", "csv")
    )
    assert markdown.splitlines()[1].startswith("| --- | ---: |")
    assert "| a_1 & <b> | 50.0 |" in markdown
    assert r"a\_1 \& <b> & 50.0" in latex
    assert latex.splitlines()[-1] == r"\end{tabular}"
    found = {row["candidate"]: row for row in csv.DictReader(io.StringIO(table))}
    assert float(found["sure"]["win_rate"]) == 100.0
    assert json.loads(found["sure"]["ci95"]) == [100.0, 100.0]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "needs --prompts, --candidate and --reference"),
        ([*WORK[1:-2], "--candidate", "x"], 2, "NAME=PATH"),
        ([*WORK[1:-2], "--candidate", "reference=better.jsonl"], 2, "NAME=PATH"),
        ([*WORK[1:-2], "--candidate", "x=better@2"], 2, "needs --reward-model"),
        ([*WORK[1:-2], "--candidate", "x=better.jsonl", "--judge", "claude"], 2, "needs a model"),
        ([*WORK[1:-2], "--candidate", "x=better.jsonl", "--dry-run"], 2, "costs nothing"),
    ],
)
def test_what_cannot_be_is_said_at_once(there: Path, args: list[str], code: int, said: str) -> None:
    done = run(there, "eval-winrate", "--out", "won", *args)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert not (there / "won").exists()


def test_two_models_are_paired_by_instruction_and_not_by_place(tmp_path: Path) -> None:
    verdicts = [2 if k % 3 else 1 for k in range(60)]
    rows = [annotation(k, p, "a") for k, p in enumerate(verdicts)]
    rows += [annotation(k, verdicts[k], "b") for k in reversed(range(60))]
    assert annotated(tmp_path, rows).returncode == 0
    (pair,) = stats(tmp_path)["paired"]
    assert (pair["difference"], pair["standard_error"], pair["p_value"]) == (0.0, 0.0, 1.0)
    assert annotated(tmp_path, rows[:-1], "--fresh").returncode == 0
    assert stats(tmp_path)["paired"] == [], "other instructions are not compared"
    said = run(tmp_path, "show", "won", "--limit", "1").stdout
    assert "I0" in said or "I1" in said


def test_judges_are_averaged_and_pairs_shown_one_way_count(there: Path) -> None:
    first, second = "reference_first", "candidate_first"
    told = [(k, first if k % 2 else second, 2.0 if k < 15 else 1.0) for k in range(N)]
    recorded(there, *told)
    work = [*WORK, "--judge", "recorded", "--judgements", "judged.jsonl", "--candidate", "better=better.jsonl"]
    assert run(there, *work).returncode == 0
    better = stats(there)["candidates"]["better"]
    assert (better["win_rate"], better["n_unjudged"]) == (75.0, 0)
    assert "agreement" not in better
    rows = [json.loads(line) for line in (there / "judged.jsonl").read_text().splitlines()]
    write_jsonl(
        there / "judged.jsonl",
        *({**r, "judge": j, "preference": p} for r in rows for j, p in (("a", 2), ("b", 2), ("c", 1))),
    )
    assert run(there, *work, "--fresh").returncode == 0
    assert stats(there)["candidates"]["better"]["win_rate"] == pytest.approx(100 * 2 / 3)
    write_jsonl(there / "judged.jsonl", {**rows[0], "preference": 3})
    wrong = run(there, *work, "--fresh")
    assert wrong.returncode == 5
    assert "preference" in wrong.stderr


def test_a_candidate_may_be_called_like_anything_and_its_content_counts(there: Path) -> None:
    names = [part for n in ("prompts", "judgements", "checkpoint-7") for part in ("--candidate", f"{n}=better.jsonl")]
    first = "reference_first"
    rows = [
        {"id": f"p{k}", "candidate": n, "order": first, "preference": 2}
        for k in range(N)
        for n in ("prompts", "judgements", "checkpoint-7")
    ]
    write_jsonl(there / "judged.jsonl", *rows)
    work = [*WORK, "--judge", "recorded", "--judgements", "judged.jsonl", *names]
    assert run(there, *work).returncode == 0
    manifest = json.loads((there / "won" / "manifest.json").read_text())
    assert {"prompts", "reference", "judgements", "candidate prompts", "candidate judgements"} <= {
        i["name"] for i in manifest["inputs"]
    }
    answers(there / "better.jsonl", ["another"] * N)
    changed = run(there, *work)
    assert changed.returncode == 2
    assert "candidate" in changed.stderr


@pytest.mark.slow
def test_candidates_in_another_order_are_the_same_run(fake: FakeClaude, there: Path) -> None:
    (there / "prices.toml").write_text(
        "[m]\ninput = 1.0\noutput = 5.0\ncache_write_5m = 1.25\ncache_write_1h = 2.0\ncache_read = 0.1\n"
    )
    priced = ["--prices", "prices.toml", "--max-tokens", "400"]
    assert claude(fake, there, *BOTH, *priced, "--max-cost", "0.02").returncode == 4
    done = claude(fake, there, *BOTH[2:], *BOTH[:2], *priced)
    assert done.returncode == 0, done.stderr
    assert list(stats(there)["candidates"]) == ["mixed", "better"]
    assert set(fake.charged.values()) == {1}


@pytest.mark.slow
def test_a_candidate_without_any_verdict_does_not_take_the_others_along(fake: FakeClaude, there: Path) -> None:
    answers(there / "mute.jsonl", [f"[[prose]] {k}" for k in range(N)])
    done = claude(fake, there, "--candidate", "better=better.jsonl", "--candidate", "mute=mute.jsonl")
    assert done.returncode == 0, done.stderr
    mute = stats(there)["candidates"]["mute"]
    assert (mute["win_rate"], mute["n_total"], mute["n_unjudged"]) == (None, 0, N)
    assert "mute: none of 20 comparisons has a verdict" in done.stderr
    assert stats(there)["candidates"]["better"]["n_total"] == N
    assert run(there, "show", "won").returncode == 0


@pytest.mark.slow
def test_equal_responses_say_nothing_of_the_judge(fake: FakeClaude, there: Path) -> None:
    for name in ("prompts", "reference", "better"):
        rows = [json.loads(line) for line in (there / f"{name}.jsonl").read_text().splitlines()]
        told = [{**r, "prompt": f"{r['prompt']} [[always: first]]"} for r in rows]
        if name == "better":
            told = [{**r, "response": f"a good thing {k}" if k < 16 else "other"} for k, r in enumerate(told)]
        write_jsonl(there / f"{name}.jsonl", *told)
    assert claude(fake, there, "--candidate", "better=better.jsonl").returncode == 0
    (better,) = stats(there)["candidates"].values()
    assert (better["prefers_first"], better["agreement"], better["n_disagreements"]) == (100.0, 0.0, 4)


def test_a_reason_that_says_failed_is_no_failure(there: Path) -> None:
    from tokalign.judges import FAILED
    from tokalign.judges.claude import read

    message = {"content": [{"type": "text", "text": json.dumps({"reason": f"{FAILED}ha", "verdict": "first"})}]}
    assert read(message, "reference_first") == (1.0, f"{FAILED}ha")


def test_a_file_that_is_not_there_is_told_before_anything_is_done(there: Path) -> None:
    done = run(there, *WORK, "--candidate", "x=nope.jsonl")
    assert done.returncode == 5, done.stderr
    assert "nope.jsonl" in done.stderr
    several = [{**p, "sample": k, "response": "x"} for p in PROMPTS for k in range(2)]
    write_jsonl(there / "many.jsonl", *several)
    first = {"id": "p0", "candidate": "x", "order": "reference_first", "preference": 2}
    write_jsonl(there / "judged.jsonl", first)
    work = [*WORK, "--judge", "recorded", "--judgements", "judged.jsonl"]
    done = run(there, *work, "--candidate", "x=many.jsonl")
    assert done.returncode == 5
    assert "several responses" in done.stderr
    best = run(there, *work, "--candidate", "x=many.jsonl@2", "--reward-model", "rm")
    assert best.returncode == 2
    assert "not a policy" in best.stderr


def test_the_best_of_two_is_another_run_than_the_best_of_four() -> None:
    from tests.conftest import ROOT
    from tokalign.stages.candidates import Side

    hashes = {Side("a", str(ROOT / "data" / "responses-good"), n).lineage()["sha256"] for n in (1, 2, 4)}
    assert len(hashes) == 3


def test_a_function_judges(there: Path) -> None:
    (there / "mine.py").write_text(
        "def goods(prompts, responses):\n"
        "    assert len(prompts) == len(responses)\n"
        "    return [r.count('good') for r in responses]\n"
        "def few(prompts, responses):\n    return [1.0]\n"
        "def words(prompts, responses):\n    return ['x' for _ in responses]\n"
    )
    done = run(there, *WORK, *BOTH, "--judge", "mine:goods")
    assert done.returncode == 0, done.stderr
    found = stats(there)
    # better: 12 of 20 have two "good", 5 have one as the reference has, 3 have none.
    assert found["candidates"]["better"]["win_rate"] == pytest.approx(100 * (12 + 2.5) / 20)
    assert found["candidates"]["mixed"]["win_rate"] == pytest.approx(50)
    assert found["judge"]["better"]["score"] == pytest.approx((24 + 5) / 20)
    (there / "mine.py").write_text((there / "mine.py").read_text() + "# changed\n")
    changed = run(there, *WORK, *BOTH, "--judge", "mine:goods")
    assert changed.returncode == 2
    assert "input judge" in changed.stderr
    for name, said in (("few", "returned 1 scores for 20 responses"), ("words", "returned 'x' for response 0")):
        failed = run(there, *WORK, *BOTH, "--judge", f"mine:{name}", "--fresh")
        assert failed.returncode == 5
        assert said in failed.stderr
    for name, code in (("mine", 2), ("mine:absent", 5), ("absent:goods", 5)):
        failed = run(there, *WORK, *BOTH, "--judge", name, "--fresh")
        assert failed.returncode == code
        assert "MODULE:NAME" in failed.stderr
