"""vLLM follows the policy. ``make test-engines`` installs it and runs these tests; elsewhere they are skipped."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.test_engines import changed
from tests.test_pipeline import lines
from tokalign.artifacts.workspace import PROGRESS
from tokalign.config.options import LoraOptions, SamplingOptions
from tokalign.config.stages import GenerateConfig, ScoreConfig, TrainPpoConfig
from tokalign.errors import TokalignError
from tokalign.models import lora, samplers
from tokalign.models.batch import Batch
from tokalign.models.loading import load_policy, new_tiny, new_tiny_classifier
from tokalign.models.policy import response_logprobs
from tokalign.models.sampler import Sampled, sample
from tokalign.models.tokenizer import Tokenizer
from tokalign.stages import generate, ppo, score

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-engines"),
]
OPTIONS = SamplingOptions(sampler="vllm", max_new_tokens=12)
TEXTS = ["Explain the sea.", "Why?", "A long question about many things, and then some.", "One two three four"]


def bigger(tokenizer: Tokenizer) -> Any:
    """A tiny policy with ids beyond the tokenizer and weights that make the next token far from certain."""
    torch.manual_seed(0)
    policy = new_tiny(tokenizer, seed=0, max_positions=256).eval()
    policy.resize_token_embeddings(tokenizer.size + 60, mean_resizing=False)
    return changed(policy, 0.1)


@pytest.fixture(scope="module")
def policy(tokenizer: Tokenizer) -> Any:
    return bigger(tokenizer)


@pytest.fixture(scope="module")
def engine(policy: Any, tokenizer: Tokenizer) -> Iterator[Any]:
    found = samplers.choose(policy, tokenizer, OPTIONS, "float32")
    yield found
    found.close()  # type: ignore[attr-defined]


def drawn(engine: Any, tokenizer: Tokenizer, texts: list[str], seeds: list[int], **options: Any) -> list[Sampled]:
    return engine(None, tokenizer.prompts(texts), seeds, tokenizer, SamplingOptions(max_new_tokens=12, **options))


def test_log_probabilities_are_those_of_the_policy(engine: Any, policy: Any, tokenizer: Tokenizer) -> None:
    for temperature in (1.0, 0.7):
        found = drawn(engine, tokenizer, TEXTS, [1, 2, 3, 4], temperature=temperature)
        pairs = [(p, s.ids) for p, s in zip(tokenizer.prompts(TEXTS), found, strict=True)]
        batch = Batch.of(pairs, tokenizer.pad_id, torch.device("cpu"))
        with torch.no_grad():
            expected = response_logprobs(policy, batch, temperature, size=tokenizer.size).logprobs
        for k, s in enumerate(found):
            assert s.logprobs is not None
            assert torch.allclose(s.logprobs, expected[k, : len(s.ids)], atol=1e-4)
            assert max(s.ids) < tokenizer.size


def test_the_same_seed_gives_the_same_response_in_any_company(engine: Any, tokenizer: Tokenizer) -> None:
    seeds = [2**32 - 1, 7, 8, 9]
    together = drawn(engine, tokenizer, TEXTS, seeds)
    alone = [drawn(engine, tokenizer, [text], [seed])[0] for text, seed in zip(TEXTS, seeds, strict=True)]
    assert [s.ids for s in together] == [s.ids for s in alone]
    other = drawn(engine, tokenizer, TEXTS, [seed - 5 for seed in seeds])
    assert all(a.ids != b.ids for a, b in zip(together, other, strict=True))


def test_greedy_is_that_of_the_built_in_sampler(engine: Any, policy: Any, tokenizer: Tokenizer) -> None:
    greedy = SamplingOptions(max_new_tokens=12, temperature=0.0)
    own = sample(policy, tokenizer.prompts(TEXTS), [0] * 4, tokenizer, greedy)
    assert [s.ids for s in drawn(engine, tokenizer, TEXTS, [0] * 4, temperature=0.0)] == [s.ids for s in own]


def test_responses_end_with_our_own_ends_only(
    engine: Any, policy: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "ends", list(range(0, tokenizer.size, 3)))
    for s in drawn(engine, tokenizer, TEXTS * 5, list(range(20))):
        ended = [i in tokenizer.ends for i in s.ids]
        assert not any(ended[:-1])
        assert s.finished == ended[-1]
        assert s.finished or len(s.ids) == 12
    monkeypatch.setattr(tokenizer, "ends", [])
    assert all(len(s.ids) == 12 and not s.finished for s in drawn(engine, tokenizer, TEXTS, [1, 2, 3, 4]))


def test_top_p_is_a_nucleus_and_has_no_log_probabilities(engine: Any, policy: Any, tokenizer: Tokenizer) -> None:
    found = drawn(engine, tokenizer, TEXTS * 8, list(range(32)), top_p=0.3)
    pairs = [(p, s.ids) for p, s in zip(tokenizer.prompts(TEXTS * 8), found, strict=True)]
    batch = Batch.of(pairs, tokenizer.pad_id, torch.device("cpu"))
    with torch.no_grad():
        logits = policy(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[..., : tokenizer.size]
    for k, s in enumerate(found):
        assert s.logprobs is None
        for t, token in enumerate(s.ids):
            probs = logits[k, len(pairs[k][0]) + t - 1].softmax(-1)
            likelier = probs[probs > probs[token] + 1e-6].sum()
            assert likelier < 0.3 + 1e-4, "the tokens before it have less than top-p"


def test_it_follows_every_update_and_stale_weights_are_noticed(
    engine: Any, policy: Any, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        engine.sync(changed(policy, 0.02))
        assert engine.gap < 1e-4
    # Without preparing the output layer, some CPUs keep an old copy of it. It is seen, or there is none.
    with monkeypatch.context() as m:
        m.setattr(engine, "_repack", lambda _: None)
        try:
            engine.sync(changed(policy, 0.1))
            assert engine.gap < 1e-4
        except TokalignError as e:
            assert "does not follow" in str(e)
    engine.sync(policy)
    # Output weights that are not handed over are seen on every machine.
    old = policy.get_output_embeddings().weight.detach().clone()
    changed(policy, 0.05)
    with monkeypatch.context() as m:
        weights = {n: old if w.shape == old.shape else w for n, w in policy.state_dict().items()}
        m.setattr("tokalign.models.vllm_engine.plain_weights", lambda _: iter(weights.items()))
        with pytest.raises(TokalignError, match="does not follow"):
            engine.sync(policy)
    engine.sync(policy)
    assert engine.gap < 1e-4


def test_merged_adapters_in_half_precision(tokenizer: Tokenizer) -> None:
    adapters = lora.Adapters(bigger(tokenizer), LoraOptions(lora=True))
    with adapters.merged():
        engine: Any = samplers.choose(adapters.model, tokenizer, OPTIONS, "bfloat16")
    for weight in adapters.parameters(lora.POLICY):
        torch.nn.init.normal_(weight, std=0.1)
    with adapters.merged(), torch.autocast("cpu", torch.bfloat16):
        engine.sync(adapters.model)
    engine.close()


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """vLLM's own server of a reward model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
        command += ["--gpu-memory-utilization", "0.2"]
        command += ["--model", str(self.folder), "--runner", "pooling", "--dtype", "float32", "--port", str(self.port)]
        cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}
        self._process = subprocess.Popen(
            command,
            env=os.environ | cpu, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> None:
        while True:
            assert self._process.poll() is None, "the server ended"
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/v1/models", timeout=1):
                return
            time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_served_reward_model_rates_as_in_process_also_after_it_was_killed(
    level: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    made = new_tiny_classifier(tokenizer, 0, 512, level)
    torch.nn.init.normal_(made.score.weight, std=0.3)
    made.save_pretrained(tmp_path / "rm")
    tokenizer.save(tmp_path / "rm")
    texts = [row["response"] for row in lines(ROOT / "data" / "sft" / "data.jsonl")]
    rows = [{"id": str(k), "prompt": f"Question {k}?", "response": texts[k % len(texts)]} for k in range(1000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(score, "CHUNK", 64)
    server = Server(tmp_path / "rm")
    server.start()
    server.wait()

    def restart() -> None:
        while not (tmp_path / "served" / PROGRESS).exists():
            time.sleep(0.01)
        server.kill()
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        for name, source in (("served", server.url), ("here", tmp_path / "rm")):
            options: dict[str, Any] = {"out": tmp_path / name, "quiet": True, "max_length": 400}
            score.run(ScoreConfig(responses=str(tmp_path / "rows.jsonl"), reward_model=str(source), **options))
    finally:
        thread.join()
        server.kill()
    served, here = (lines(tmp_path / name / "data.jsonl") for name in ("served", "here"))
    assert len(served) == len(here) == 1000
    for a, b in zip(served, here, strict=True):
        assert a["id"] == b["id"]
        assert a["score_mean"] == pytest.approx(b["score_mean"], abs=1e-4)
        rewards = [row["reward"] for row in (a, b)]
        assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)


@pytest.mark.slow
def test_commands_sample_with_it(tokenizer: Tokenizer, policy: Any, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save(tmp_path / "policy")
    common: dict[str, Any] = {"policy": str(tmp_path / "policy"), "sampler": "vllm", "quiet": True, "device": "cpu"}
    (tmp_path / "few.txt").write_text("One?\nTwo?\nThree?\n")
    ppo.run(
        TrainPpoConfig(
            prompts=str(ROOT / "data" / "prompts"), reward_model=["tests.test_engines:shorter"], out=tmp_path / "ppo",
            steps=3, batch_size=8, max_new_tokens=12, max_length=200, lr=1e-3, eval_judge="reward", eval_every=2,
            eval_prompts=str(tmp_path / "few.txt"), **common,
        )
    )  # fmt: skip
    found = lines(tmp_path / "ppo" / "metrics.jsonl")
    assert [row["mismatch"] < 1e-3 for row in found] == [True] * 3
    trained = load_policy(tmp_path / "ppo")
    assert not torch.equal(trained.get_output_embeddings().weight, policy.get_output_embeddings().weight)
    options = {"prompts": str(tmp_path / "few.txt"), "n": 2, "max_new_tokens": 8, **common}
    for name in ("a", "b"):
        generate.run(GenerateConfig(out=tmp_path / name, **{**options, "policy": str(tmp_path / "ppo")}))
    rows = lines(tmp_path / "a" / "data.jsonl")
    assert len(rows) == 6
    assert rows == lines(tmp_path / "b" / "data.jsonl"), "the same seeds give the same responses, also after a restart"
