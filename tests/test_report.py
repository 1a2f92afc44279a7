"""The page: everything on it, nothing in it that acts, no ink outside its box; in a real browser too."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.browser import browser, complaints, requests
from tests.conftest import ROOT
from tests.forked import run
from tests.manifests import change, vouch
from tests.test_cli import write_jsonl
from tokalign.artifacts.manifest import open_artifact
from tokalign.errors import InputError
from tokalign.report import collect, curves, lineage, plot
from tokalign.report.spans import clipped, marked, rewarded
from tokalign.report.text import safe

__all__ = ["browser"]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e javascript:alert(1) {{7*7}} & \"'"


@pytest.fixture
def made(tmp_path: Path, runs: Path) -> Path:
    """A copy of ``runs``, to be changed."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small run, with texts that would like to do harm."""
    tmp_path = tmp_path_factory.mktemp("report")
    for seed in ("one", "two"):
        folder = tmp_path / seed
        folder.mkdir()
        for name in ("edits", "labels", "winrates", "responses-good", "responses-plain"):
            shutil.copytree(ROOT / "data" / name, folder / name)
        write_jsonl(
            folder / "rows.jsonl",
            {"id": HOSTILE[:40], "prompt": HOSTILE, "original": f"a bad {HOSTILE} b", "edited": f"a good {HOSTILE} b"},
        )
        edit = ["edit", "rows.jsonl", "--editor", "recorded", "--out", "bad edits"]
        assert run(folder, *edit).returncode == 0
        assert run(folder, "diff", "bad edits", "--tokenizer", "tiny", "--vocab", "300", "--out", "a").returncode == 0
        policy(folder / "ppo", seed)
    return tmp_path


def policy(folder: Path, seed: str) -> None:
    """What a PPO run leaves behind, as far as the page reads it."""
    shift = {"one": 0.0, "two": 4.0}[seed]
    (folder / "samples").mkdir(parents=True)
    steps = [
        {"step": k, "reward": k + shift, "kl": k / 10, "length": 40.0, "seconds_rollout": 1.0, "seconds_update": 2.0}
        | ({"win_rate": 50.0 + k + shift} if k % 10 == 0 else {})
        for k in range(1, 41)
    ]
    write_jsonl(folder / "metrics.jsonl", *steps)
    sample = {"id": "s", "sample": 0, "prompt": "Q?", "response": f"{HOSTILE} end", "tokens": ["x", "y"]}
    sample |= {
        "p_bad": None,
        "p_neutral": None,
        "p_good": None,
        "offsets": [[0, 10], [10, 20]],
        "reward": [-1.0, 0.5],
        "score_mean": -0.25,
        "score_sum": -0.5,
    }
    write_jsonl(folder / "samples" / "step-00040.jsonl", sample)
    vouch(folder, "policy", stats={"steps": 40, "best_step": 40, "best_win_rate": None}, usage={"usd": 0.5})


def page(made: Path, *args: str) -> str:
    done = run(made, "report", "one", "two", "--out", "report.html", "--fresh", *args)
    assert done.returncode == 0, done.stderr
    return (made / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """All elements with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_is_hostile_is_shown_and_does_nothing(made: Path) -> None:
    text = page(made, "--title", HOSTILE)
    tags = Tags(text)
    assert not tags.open, "every element is closed"
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "img", "iframe", "object", "form", "input", "base"})
    for tag, attributes in tags.found:
        assert not [a for a in attributes if a.startswith("on") or a in ("style", "src")], tag
        target = attributes.get("href", "#")
        assert target is not None
        assert target.startswith("#") or (tag, target) == ("link", "data:,")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert safe(HOSTILE).replace("\n", " ") in tags.text.replace("\n", " ")
    assert "{{7*7}}" in tags.text
    assert len(text) < 3_000_000
    assert not re.search(r"url\(|@import|https?://", text)


def test_the_policy_for_content_allows_this_style_and_nothing_else(made: Path) -> None:
    import base64
    import hashlib

    text = page(made)
    (csp,) = [a["content"] for tag, a in Tags(text).found if a.get("http-equiv") == "Content-Security-Policy"]
    assert csp is not None
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert csp.startswith("default-src 'none';")
    assert f"style-src 'sha256-{digest}';" in csp
    assert "unsafe" not in csp


def test_everything_that_was_made_is_on_the_page(made: Path) -> None:
    text = Tags(page(made)).text
    for said in ("18 artifacts", "one/winrates", "Win rates", "token-labels/1", "ppo, last samples", "$1.0000 paid"):
        assert said in text, said
    manifest = json.loads((made / "one" / "winrates" / "manifest.json").read_text())
    assert f"{manifest['stats']['candidates']['good']['win_rate']:.1f}" in text
    assert page(made, "--only", "winrates").count("<details>") == 2


def test_a_page_is_not_written_over_another_unasked(made: Path) -> None:
    (made / "report.html").write_text("mine")
    for args, code in (([], 2), (["--out", "nowhere/x.html"], 5)):
        done = run(made, "report", "one", "--out", "report.html", *args)
        assert done.returncode == code, done.stderr
    assert (made / "report.html").read_text() == "mine"
    empty = made / "empty"
    empty.mkdir()
    assert run(made, "report", "empty", "--out", "other.html").returncode == 5


def test_seeds_are_a_line_with_a_band(made: Path) -> None:
    logs = [curves.read(open_artifact(made / seed / "ppo")) for seed in ("one", "two")]
    assert logs[0][9]["minutes"] == pytest.approx(10 * 3 / 60)
    line = curves.series("ppo", logs, "win_rate", "step")
    assert (line.x, line.y) == ([10, 20, 30, 40], [62.0, 72.0, 82.0, 92.0])
    assert (line.low, line.high) == ([60.0, 70.0, 80.0, 90.0], [64.0, 74.0, 84.0, 94.0])
    assert curves.series("ppo", logs[:1], "win_rate", "step").low == ()
    assert curves.series("ppo", [], "win_rate", "step").x == []


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 9), st.floats(-2, 2)), max_size=6))
def test_marks_change_no_text(text: str, tokens: list[tuple[int, float]]) -> None:
    ends = sorted({min(length + 3 * k, len(text)) for k, (length, _) in enumerate(tokens)})
    offsets = [[a, b] for a, b in zip([0, *ends], ends, strict=False)]
    spans = marked(text, offsets, [v for _, v in tokens][: len(offsets)])
    assert "".join(s.text for s in spans) == safe(text)
    assert all(a.mark != b.mark for a, b in itertools.pairwise(spans))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_hold_all_between_them(low: float, span: float) -> None:
    found = plot.ticks(low, low + span)
    assert found[0] <= low + 1e-9 * (abs(low) + span)
    assert found[-1] >= low + span - 1e-9 * (abs(low) + span)
    assert 2 <= len(found) <= 13


def test_a_plot_of_one_point_or_of_none_can_be_drawn() -> None:
    one = plot.lines([plot.Series("a<b", [1], [2.0])], "x", "y", "t")
    assert "a&lt;b" in one
    assert "nan" not in one
    assert plot.lines([plot.Series("a", [], [])], "x", "y", "t") == ""


@pytest.fixture
def opened(made: Path, browser: Any) -> Iterator[Any]:
    page(made, "--title", HOSTILE)
    requests(browser)  # of the browser's own first page
    browser.get((made / "report.html").as_uri())
    yield browser


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_browser_nothing_is_fetched_nothing_fails_and_nothing_sticks_out(opened: Any, width: int) -> None:
    opened.set_window_size(width, 900)
    assert complaints(opened) == []
    assert {url.split(":")[0] for url in requests(opened)} <= {"file", "data", "chrome", "chrome-untrusted"}
    assert opened.title == safe(HOSTILE)
    inner, whole = opened.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert whole <= inner, "the page itself scrolls sideways"
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('p,td,th,summary,figcaption')].filter(e => e.offsetParent)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12
    # Every mark can be seen: its ground differs from the page's.
    grounds = opened.execute_script(
        "return [...document.querySelectorAll('mark')].map(e => getComputedStyle(e).backgroundColor)"
    )
    assert grounds
    assert "rgba(0, 0, 0, 0)" not in grounds


@pytest.mark.browser
@pytest.mark.slow
def test_in_the_dark_it_is_dark(opened: Any) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    ground = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert max(int(n) for n in re.findall(r"\d+", ground)[:3]) < 60


def test_what_is_inside_another_artifact_is_paid_once(made: Path) -> None:
    for name in ("winrates", "winrates/judgements"):
        change(made / "one" / name, usage={"usd": 3.0})
    assert "$4.0000 paid" in Tags(page(made)).text


def test_folders_without_artifacts_and_manifests_of_others_are_told_apart(made: Path) -> None:
    (made / "empty").mkdir()
    done = run(made, "report", "empty", "one", "--out", "x.html")
    assert done.returncode == 5
    assert "empty" in done.stderr
    (made / "one" / "app").mkdir()
    (made / "one" / "app" / "manifest.json").write_text('{"name": "a web app"}')
    assert run(made, "report", "one", "--out", "x.html").returncode == 0
    assert run(made, "report", "one", "--only", "nothing*", "--out", "y.html").returncode == 5


def test_numbers_that_are_none_are_not_drawn() -> None:
    log = [{"step": k, "minutes": k, "reward": r} for k, r in enumerate([1.0, float("inf"), float("nan"), 2.0])]
    assert curves.series("a", [log], "reward", "step").y == [1.0, 2.0]


def test_rewards_of_every_token_are_shown_where_they_were_paid(made: Path) -> None:
    text = page(made)
    assert "-0.250 per token" in text
    assert re.search(r'<mark class="b4">', text[text.index("last samples") :])
    row = {"response": "a b", "offsets": [[0, 1], [1, 3], [3, 3]], "reward": [0.0, 0.0, 40.0], "p_bad": None}
    assert [s.mark for s in rewarded(row)] == [""], "one score, at the end, is that of the whole"
    assert [s.mark for s in rewarded({**row, "reward": [-20.0, 40.0, 1.0]})] == ["b2", "g4"], (
        "by the most that was paid"
    )


def test_artifacts_named_themselves_keep_their_names(made: Path) -> None:
    found = collect.artifacts_below([made / "one" / "a", made / "one" / "winrates", made / "one" / "a"], [])
    assert [f.name for f in found][:2] == ["a", "winrates"]
    assert len({f.folder for f in found}) == len(found), "once, however often it is named"


def test_where_a_folder_lies_hides_nothing_but_checkpoints_below_it_are_not_shown(tmp_path: Path) -> None:
    work = tmp_path / "checkpoints" / "work"
    for name in ("a", "b/checkpoints/best-3"):
        vouch(work / name, "edits")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked").symlink_to(work / "a")
    (work / "loop").symlink_to(work)
    (work / "all").symlink_to("/")
    assert [f.name for f in collect.artifacts_below([work], [])] == ["a"]
    assert [f.name for f in collect.artifacts_below([tmp_path / "elsewhere" / "linked"], [])] == ["a"]
    with pytest.raises(InputError, match="no artifact"):
        collect.artifacts_below([tmp_path / "elsewhere"], [])
    assert "a " in run(tmp_path, "show", "checkpoints/work").stdout


def test_a_seed_that_ended_early_takes_no_curve_away() -> None:
    long = [{"step": k, "minutes": k, "win_rate": float(k)} for k in (10, 20, 30)]
    line = curves.series("a", [long, [{"step": 7, "minutes": 7, "win_rate": 9.0}], long[:1]], "win_rate", "step")
    assert (line.x, line.y) == ([7, 10, 20, 30], [9.0, 10.0, 20.0, 30.0])


def test_of_a_log_the_lines_that_have_a_step_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 2.0}\n{"other": 3}\n')
    run = open_artifact(vouch(tmp_path, "policy"))
    assert [row["step"] for row in curves.read(run)] == [1]


def test_what_most_reward_models_scored_is_what_is_compared(tmp_path: Path) -> None:
    def scored(name: str, ids: str) -> None:
        row = {"sample": 0, "prompt": "Q", "offsets": [[0, 1]], "reward": [1.0], "score_mean": 1.0, "score_sum": 1.0}
        row |= {"tokens": ["x"], "p_bad": [0.0], "p_neutral": [0.0], "p_good": [1.0]}
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "data.jsonl", *({**row, "id": k, "response": k} for k in ids))
        vouch(tmp_path / name, "token-rewards")

    for name, ids in (("a", "xyz"), ("b", "pqrst"), ("c", "rst"), ("d", "tsp")):
        scored(name, ids)
    groups = collect.rated(collect.artifacts_below([tmp_path], []), 5)
    assert [[(r.id, r.by) for r in group] for group in groups] == [[(k, by) for by in "bcd"] for k in "st"]
    assert len(collect.rated(collect.artifacts_below([tmp_path / "b", tmp_path / "c"], []), 2)) == 2


def test_many_rounds_of_training_are_drawn_at_once(tmp_path: Path) -> None:
    """Each round's policy is made from the last one and from what that wrote: paths double with every round."""
    for k in range(1, 60):
        last = [{"name": "policy", "path": f"../p{k - 1}", "sha256": ""}] if k > 1 else []
        vouch(tmp_path / f"r{k}", "responses", inputs=last)
        inputs = [*last, {"name": "data", "path": f"../r{k}/data.jsonl", "sha256": ""}]
        vouch(tmp_path / f"p{k}", "policy", inputs=inputs)
    found = collect.artifacts_below([tmp_path], [])
    assert lineage.edges(found)["p7"] == ["p6", "r7"], "also by a file in an artifact"
    assert lineage.draw(found).count('class="node"') == 118


def test_long_texts_are_shown_from_before_their_first_mark() -> None:
    text = "x" * 9000 + "bad" + "y" * 9000
    spans = clipped(text, [[0, 9000], [9000, 9003], [9003, 18003]], [0, -1, 0])
    assert spans[0].text == "[… 8000 characters …] "
    assert [(s.text, s.mark) for s in spans if s.mark] == [("bad", "b4")]
    assert spans[-1].text.endswith("[… 6003 characters …]")


def test_counts_have_no_ticks_between_and_tiny_numbers_have_them() -> None:
    assert plot.ticks(1, 2, least=1) == [1, 2]
    assert len(set(plot.ticks(0, 4e-14))) == len(plot.ticks(0, 4e-14)) < 12
