"""Reward models on a server: the same rewards as in process, whatever the server does. tests/test_vllm.py has vLLM."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.fake_pooling import FakePooling
from tests.forked import run
from tests.test_pipeline import lines
from tokalign.artifacts.manifest import Manifest
from tokalign.config.stages import EvalRmConfig, EvalWinrateConfig, GenerateConfig, ScoreConfig, TrainPpoConfig
from tokalign.errors import InputError, TokalignError
from tokalign.models.loading import new_tiny, new_tiny_classifier
from tokalign.models.tiny_tokenizer import train_tiny
from tokalign.models.tokenizer import Tokenizer
from tokalign.runtime import endpoint
from tokalign.stages import eval_rm, generate, ppo, score, winrate

pytestmark = pytest.mark.slow
DATA = ROOT / "data"
RESPONSES = str(DATA / "responses-plain")


@pytest.fixture(scope="module", params=["token", "sequence"])
def model(request: Any, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = new_tiny_classifier(tokenizer, 0, 512, request.param)
    torch.nn.init.normal_(made.score.weight, std=0.3)
    folder = tmp_path_factory.mktemp("rm") / "rm"
    made.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture
def server(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePooling]:
    endpoint.served.cache_clear()
    monkeypatch.setattr(endpoint, "_sleep", lambda seconds: time.sleep(seconds / 50))
    monkeypatch.setattr(endpoint, "FIRST", 0.2)
    with FakePooling(model) as found:
        yield found


def scored(source: object, out: Path, **options: Any) -> list[dict[str, Any]]:
    score.run(ScoreConfig(responses=RESPONSES, reward_model=str(source), out=out, quiet=True, **options))
    return lines(out / "data.jsonl")


def close(a: Any, b: Any) -> bool:
    """Whether nested values are equal to 1e-4."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    return bool(a == pytest.approx(b, abs=1e-4)) if isinstance(a, float) else bool(a == b)


@pytest.mark.parametrize("options", [{}, {"reward": "discrete"}, {"normalise": "word"}, {"normalise": "span"}])
def test_rewards_are_those_in_process(server: FakePooling, model: Path, tmp_path: Path, options: Any) -> None:
    assert close(scored(server.url, tmp_path / "a", **options), scored(model, tmp_path / "b", **options))
    assert server.rows == 64
    inputs = {i["name"]: i for i in Manifest.read(tmp_path / "a").inputs}
    assert inputs["reward_model"]["path"] == server.url
    assert inputs["reward_model"]["sha256"].startswith("served:")
    assert run(tmp_path, "verify", "a").returncode == 0


def test_rewards_on_the_tokens_of_another_tokenizer(server: FakePooling, model: Path, tmp_path: Path) -> None:
    other = train_tiny(("The cat sat on the mat, and so on." for _ in range(9)), 300)
    other.save(tmp_path / "other")
    options = {"tokenizer": str(tmp_path / "other")}
    assert close(scored(server.url, tmp_path / "a", **options), scored(model, tmp_path / "b", **options))


def test_a_server_that_fails_for_a_while_is_asked_again(server: FakePooling, model: Path, tmp_path: Path) -> None:
    server.faults = [503, "drop", 500, 429, 502]
    assert close(scored(server.url, tmp_path / "a"), scored(model, tmp_path / "b"))
    assert server.faults == []


def test_a_server_that_restarts_in_the_middle(
    server: FakePooling, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "CHUNK", 16)

    def restart() -> None:
        while not server.rows:
            time.sleep(0.001)
        server.stop()
        time.sleep(0.3)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    found = scored(server.url, tmp_path / "a")
    thread.join()
    assert close(found, scored(model, tmp_path / "b"))


def test_a_server_that_stays_away_loses_nothing(
    server: FakePooling, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "CHUNK", 16)
    monkeypatch.setattr(endpoint, "PATIENCE", 0.2)
    monkeypatch.setattr("tokalign.artifacts.resumable.EVERY", 0.0)
    server.faults = [lambda answer: answer, *["drop"] * 1000]
    with pytest.raises(TokalignError, match="no answer for") as away:
        scored(server.url, tmp_path / "a")
    assert away.value.exit_code == 1
    assert "resumes" in away.value.remedy
    answered = server.rows
    assert answered == 16
    server.faults = []
    assert close(scored(server.url, tmp_path / "a"), scored(model, tmp_path / "b"))
    assert server.rows == 64, "what was answered is not asked again"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (400, r"refuses the request \(status 400\).*a reason"),
        (404, "status 404"),
        (lambda answer: answer | {"data": answer["data"][1:]}, "15 outputs for 16 rows"),
        (lambda _: [1, 2], "0 outputs for 16 rows"),
        (lambda _: b"<html>", "not JSON"),
        (lambda answer: answer | {"data": [d | {"data": [[0.0, 1.0]]} for d in answer["data"]]}, r"not \("),
        (lambda answer: answer | {"data": [d | {"data": d["data"][1:]} for d in answer["data"]]}, r"not \("),
        (lambda answer: json.loads(re.sub(r"-?\d+\.\d+(e-?\d+)?", "NaN", json.dumps(answer))), r"not \("),
        (lambda answer: answer | {"data": [d | {"data": "text"} for d in answer["data"]]}, r"not \("),
    ],
)
def test_wrong_answers_are_refused(server: FakePooling, tmp_path: Path, fault: Any, said: str) -> None:
    server.faults = [fault] * 4
    with pytest.raises(InputError, match=said) as refused:
        scored(server.url, tmp_path / "a")
    assert refused.value.exit_code == 5
    assert server.url in str(refused.value)
    assert not (tmp_path / "a").exists()


def test_addresses_that_lead_nowhere(
    server: FakePooling, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, server.folder = server.folder, Path("somewhere/else")
    with pytest.raises(InputError, match="'somewhere/else', which is not here") as elsewhere:
        scored(server.url, tmp_path / "a")
    assert "#FOLDER" in elsewhere.value.remedy
    assert endpoint.served(f"{server.url}/#{model}") == ("somewhere/else", str(model))
    server.folder = folder
    assert close(scored(f"{server.url}#{model}", tmp_path / "named"), scored(model, tmp_path / "b"))
    server.models = 2
    endpoint.served.cache_clear()
    with pytest.raises(InputError, match="not a server of one model"):
        scored(server.url, tmp_path / "a")
    server.stop()
    with pytest.raises(TokalignError, match="no answer"):
        scored(server.url, tmp_path / "a")
    assert capsys.readouterr().err.count("does not answer (ConnectionError); trying for") == 1
    server.start()
    for address in ("http://", "https:///x"):
        done = run(tmp_path, "score", RESPONSES, "--reward-model", address, "--out", "a")
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


def test_every_command_that_takes_a_reward_model(
    server: FakePooling, model: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    new_tiny(tokenizer, seed=1, max_positions=256).save_pretrained(tmp_path / "policy")
    tokenizer.save(tmp_path / "policy")
    policy, prompts = str(tmp_path / "policy"), str(DATA / "test")
    few: dict[str, Any] = {"max_new_tokens": 8, "limit": 6, "quiet": True, "device": "cpu"}

    def made(name: str, reward_model: str) -> Any:
        out = tmp_path / name
        generate.run(
            GenerateConfig(prompts=prompts, policy=policy, n=3, reward_model=reward_model, out=out / "best", **few)
        )
        winrate.run(
            EvalWinrateConfig(
                prompts=prompts, reference=policy, candidate=[f"best={out / 'best'}", f"again={policy}@2"],
                judge="reward", reward_model=[reward_model], out=out / "won", **few,
            )
        )  # fmt: skip
        found = [lines(out / "best" / "data.jsonl"), Manifest.read(out / "won").stats["candidates"]]
        ppo.run(
            TrainPpoConfig(
                prompts=str(DATA / "prompts"), policy=policy, reward_model=[reward_model], steps=2, batch_size=4,
                max_length=200, granularity="sequence", out=out / "ppo", eval_prompts=prompts, eval_every=1, **few,
            )
        )  # fmt: skip
        metrics = lines(out / "ppo" / "metrics.jsonl")
        found += [[{k: row[k] for k in ("reward", "token_reward", "win_rate", "kl")} for row in metrics]]
        return found

    assert close(made("served", server.url), made("here", str(model)))


def test_labels_are_measured_with_it(server: FakePooling, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another tokenizer"):
        eval_rm.run(EvalRmConfig(labels=str(DATA / "labels"), reward_model=server.url, out=tmp_path / "m", quiet=True))
