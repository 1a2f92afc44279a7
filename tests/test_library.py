"""``import tokalign``: what it offers, and that it is what the commands do."""

import inspect
import json
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import tokalign as ta
from tests import models as shipped
from tokalign.api.commands import FUNCTIONS
from tokalign.artifacts.manifest import Manifest
from tokalign.config.commands import COMMANDS
from tokalign.core.diff import BAD, GOOD
from tokalign.errors import ConflictError, InputError, KindError, UsageError
from tokalign.models.reward import RewardModel
from tokalign.models.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_offered() -> None:
    assert sorted(ta.__all__) == [
        "Labels", "RewardModel", "ScoredResponse", "ScoredToken", "Side", "__version__", "diff", "edit", "eval_rm",
        "eval_winrate", "export", "generate", "label", "make_playground", "make_report", "merge", "read", "score",
        "train_ppo", "train_rm", "train_sft",
    ]  # fmt: skip
    for name in ta.__all__:
        assert getattr(ta, name).__doc__ or name == "__version__", name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ta.nothing  # type: ignore[attr-defined]


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, tokalign; print([m for m in ('torch', 'typer', 'pydantic', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_the_options_of_its_command(name: str) -> None:
    options = COMMANDS[FUNCTIONS[name]].load_options()
    given = inspect.signature(getattr(ta, name)).parameters
    assert set(given) == {f.name for f in fields(options)}
    for f in fields(options):
        assert (given[f.name].kind is inspect.Parameter.KEYWORD_ONLY) != f.metadata["positional"]
        assert f.metadata["about"] in (getattr(ta, name).__doc__ or "")


def test_the_stub_is_that_of_the_code() -> None:
    made = runpy.run_path(str(ROOT / "bench" / "docs" / "stub.py"))["stub"]()
    committed = (ROOT / "src" / "tokalign" / "__init__.pyi").read_text(encoding="utf-8")
    flat = [re.sub(r"[\s,()]+", "", text).replace("'", '"') for text in (made, committed)]
    assert flat[0] == flat[1], "python bench/docs/stub.py and ruff format write it anew"


def test_a_command_and_its_function_make_the_same(tmp_path: Path) -> None:
    from tests.forked import run

    source = DATA / "preferences"
    made = ta.edit(source, out="by-function", limit=20).manifest
    done = run(tmp_path, "edit", str(source), "--limit", "20", "--out", "by-command")
    assert done.returncode == 0
    other = Manifest.read(tmp_path / "by-command")
    assert made.digest == other.digest
    assert made.config_hash == other.config_hash
    assert made.command == ["python", "tokalign.edit"]
    assert other.command[:2] == ["tokalign", "edit"]
    assert ta.edit(source, out="by-command", limit=20).manifest.command == other.command, "it is there"
    with pytest.raises(ConflictError):
        ta.edit(source, out="by-command", limit=21)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"editor": "typo"}, UsageError, "--editor is 'typo'"),
        ({"min_similarity": "0.3"}, UsageError, "--min-similarity is '0.3'"),
        ({"min_similarity": 2.0}, UsageError, "--min-similarity is 2.0"),
        ({"nothing": 1}, TypeError, "no option 'nothing'"),
        ({"source": "gone.jsonl"}, InputError, "gone.jsonl"),
    ],
)
def test_what_is_wrong_is_told(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        ta.edit(**{"source": DATA / "preferences", "out": "edits", **given})
    with pytest.raises(TypeError, match="needs 'out'"):
        ta.edit("x")  # type: ignore[call-arg]
    assert not Path("edits").exists()


def test_the_path_of_imports_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(Path.cwd()))])
    before = list(sys.path)
    Path("mine.py").write_text("def pays(p, r, o):\n    return [1] * len(r)\n")
    with pytest.raises(InputError, match="cannot import the function 'mine:pays'"):
        ta.train_ppo(DATA / "prompts", policy=shipped.chatml(Path("m")), reward_model="mine:pays", out="o")
    assert sys.path == before


def test_labels_of_one_edit() -> None:
    ours = Tokenizer.load(shipped.chatml(Path("m")))
    for tokenizer in ("m", ours.hf_tokenizer):
        labels = ta.label("The cat sat.", "The dog sat.", tokenizer=tokenizer)
        for side, sign in ((labels.original, BAD), (labels.edited, GOOD)):
            told = {
                side.text[start:end] for (start, end), z in zip(side.offsets, side.labels, strict=True) if z == sign
            }
            assert "".join(sorted(told, key=side.text.index)).strip() in ("cat", "dog")
            assert side.labels == [sign if span else 0 for span in side.spans]
            assert side.ids[-1] == ours.eos_id
            assert len({len(column) for column in side[1:]}) == 1
    alike = ta.label("The cat sat.", "The cat sat.", tokenizer="m")
    assert {*alike.original.labels, *alike.edited.labels} == {0}


def test_labels_are_those_of_the_stage() -> None:
    shipped.chatml(Path("m"))
    row = {"id": "a", "prompt": "Hi", "original": "A trout is a fish.", "edited": "A robin is no fish."}
    Path("e.jsonl").write_text(json.dumps(row) + "\n")
    ta.diff("e.jsonl", tokenizer="m", out="labels")
    [made] = ta.read("labels")
    labels = ta.label(row["original"], row["edited"], tokenizer="m")
    for name, side in (("original", labels.original), ("edited", labels.edited)):
        assert made[f"{name}_ids"] == side.ids
        assert made[f"{name}_labels"] == side.labels
        assert made[f"{name}_spans"] == side.spans
        assert [tuple(o) for o in made[f"{name}_offsets"]] == side.offsets


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_scores_are_those_of_the_model(level: str) -> None:
    from tokalign.models import loading

    policy = shipped.chatml(Path("m"))
    (loading.new_token_model if level == "token" else loading.new_sequence_model)(policy).save_pretrained("rm")
    Tokenizer.load("m").save(Path("rm"))
    rm = ta.RewardModel.load("rm", device="cpu")
    assert rm.level == level
    prompts, texts = ["Hi", "Name a bird."], ["A robin.", "A trout, or no"]
    [ended, cut] = rm.score(prompts, texts, finished=[True, False])
    tokenizer = Tokenizer.load("rm")
    ids = [r.ids for r in tokenizer.responses(texts)]
    pairs = list(zip(tokenizer.prompts(prompts), [ids[0], ids[1][:-1]], strict=True))
    rated = RewardModel.load("rm").rate(pairs)
    assert [ended.score, cut.score] == pytest.approx(rated.means)
    assert [t.reward for t in ended.tokens] == pytest.approx(rated.rewards[0].tolist())
    assert "".join(texts[0][t.start : t.end] for t in ended.tokens) == texts[0]
    assert len(cut.tokens) == len(ids[1]) - 1
    assert (ended.tokens[0].p_bad is None) == (level == "sequence")


def test_artifacts_as_datasets() -> None:
    rows = ta.read(DATA / "edits")
    assert rows.num_rows == Manifest.read(DATA / "edits").rows["out"]
    assert {"original", "edited", "status"} <= {*rows.column_names}
    assert len(ta.read(DATA / "labels")[0]["original_labels"]) > 3
    assert "preferences" in ta.read(DATA / "winrates").column_names
    with pytest.raises(InputError):
        ta.read("nowhere")
    shipped.chatml(Path("m"))
    ta.train_sft(DATA / "sft", model="tiny", vocab=300, steps=1, limit=8, out="policy", device="cpu")
    with pytest.raises(KindError, match="policy has no rows"):
        ta.read("policy")


@pytest.mark.slow
def test_every_line_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    said = capsys.readouterr().out
    assert re.search(r"^'.*' -1$", said, re.MULTILINE)
    assert "80 {" in said
