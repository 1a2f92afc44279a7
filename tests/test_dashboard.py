"""The panel of a training, on a terminal and off one."""

import io

import pytest
from rich.console import Console

from tokalign.runtime.dashboard import WIDTH, Dashboard, spark
from tokalign.runtime.progress import pace

METRICS = {
    "reward": 1.5, "kl": 0.25, "length": 40.0, "entropy": 0.5, "explained_variance": 0.9, "clip_fraction": 0.1,
    "tokens_per_second": 900.0,
}  # fmt: skip


def test_a_course_is_drawn_from_its_least_to_its_greatest() -> None:
    assert spark([0.0, 1.0, 0.5]) == "▁█▅"
    assert spark([2.0, 2.0]) == "▁▁"


def test_the_panel_shows_every_metric_its_course_and_what_is_left() -> None:
    board = Dashboard("train-ppo", 200)
    for step in range(60):
        board.done += 1
        for key, value in {**METRICS, "reward": float(step)}.items():
            board._history[key].append(value)
    board._history["win_rate"].append(71.25)
    console = Console(file=io.StringIO(), width=120)
    console.print(board._panel())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 60 of 200" in shown
    assert "left" in shown
    for name in ("win rate, %", "71.2", "reward", "59.000", "explained variance", "tokens/s", "900"):
        assert name in shown
    (line,) = (line for line in shown.splitlines() if "reward" in line)
    assert line.count("▁") < WIDTH
    assert "█" in line


def test_off_a_terminal_a_plain_line_is_said_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokalign.runtime.progress.EVERY", 0.0)
    with Dashboard("train-ppo", 3) as board:
        board.advance(1, **METRICS)
        board.say("beware")
    said = capsys.readouterr().err
    assert "train-ppo: 1/3" in said
    assert "reward 1.5 kl 0.25 length 40" in said
    assert "train-ppo: beware" in said
    with Dashboard("train-ppo", 3, quiet=True) as board:
        board.advance(1, **METRICS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("rate", "shown"), [(12.34, "12.3/s"), (1.0, "1.0/s"), (0.4, "2.5 s each"), (0.01, "100.0 s each"), (0.0, "0.0/s")]
)
def test_a_slow_step_is_shown_in_seconds(rate: float, shown: str) -> None:
    assert pace(rate) == shown
