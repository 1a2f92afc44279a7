"""``tokalign train-ppo``: prompts, a policy and a reward model in; a better policy out."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tokalign import checkpoints, interrupt, sources
from tokalign.artifacts import Manifest
from tokalign.config import TrainPpoConfig
from tokalign.core import winrate
from tokalign.errors import InputError, UsageError
from tokalign.judges import Judge
from tokalign.metrics import MetricsLog, last_logged
from tokalign.models import loading
from tokalign.models.ppo import Learner
from tokalign.models.reward import RewardModel
from tokalign.models.sampler import respond
from tokalign.models.tokenization import Codec, same_tokenizer
from tokalign.progress import Progress
from tokalign.schemas import PromptRow
from tokalign.writer import writing

SHOWN = ("reward", "kl", "length")


def run(config: TrainPpoConfig) -> Manifest:
    """Train; keep the checkpoint that wins most on ``--eval-prompts`` (without them, the last)."""
    data = sources.read_rows(config.prompts, PromptRow, "prompts", how=config, limit=config.limit)
    inputs = {
        "prompts": data.lineage,
        "policy": sources.model_lineage(config.policy, "policy"),
        "reward_model": sources.model_lineage(config.reward_model, "reward-model"),
    }
    heldout = None
    if config.eval_prompts:
        heldout = sources.read_rows(config.eval_prompts, PromptRow, "prompts")
        inputs["eval_prompts"] = heldout.lineage

    with writing("policy", config, inputs) as out:
        if out.finished is not None:
            return out.finished
        device = loading.pick_device(config.device)
        torch.manual_seed(config.seed)
        learner = _learner(config, device)
        codec, reward_model = learner.codec, learner.reward_model
        prompts = [p for p in codec.prompts([r.prompt for r in data]) if _fits(p, config)]
        if not prompts:
            raise InputError("no prompt leaves room for a response", where=config.prompts, remedy="raise --max-length")
        contest = None
        if heldout is not None:
            contest = Contest(config, learner, list(heldout), _judge(config, reward_model))

        folder = out.folder / "checkpoints"
        batches = _batches(len(prompts), config.batch_size, config.seed)
        with Progress("train-ppo", config.steps, config.quiet) as bar:
            at = _resume(learner, checkpoints.newest(folder, bar.say))
            bar.skip_to(at.step)
            for _ in range(at.step):
                next(batches)
            with MetricsLog(out.folder, config.report_to, after=at.step) as log:
                for step in range(at.step + 1, config.steps + 1):
                    metrics: dict[str, Any] = learner.step([prompts[i] for i in next(batches)])
                    at = replace(at, step=step, tokens=at.tokens + metrics["length"] * config.batch_size)
                    if contest is not None and (step % config.eval_every == 0 or step == config.steps):
                        metrics |= contest.hold(learner.policy)
                        if at.best_win_rate is None or metrics["win_rate"] > at.best_win_rate:
                            at = replace(at, best_step=step, best_win_rate=metrics["win_rate"])
                            learner.policy.save_pretrained(str(folder / f"best-{step}"))
                    log.write(step, metrics)
                    bar.advance(1, **{k: metrics[k] for k in SHOWN})
                    if step % config.save_every == 0 or step == config.steps or interrupt.asked():
                        _save(learner, at, folder)
                    interrupt.check()
        checkpoints.keep_last(folder)
        _forget_old_best(at, folder)
        learner.policy.save_pretrained(str(folder / "last"))
        codec.save(folder / "last")
        codec.save(out.folder)
        for path in (folder / (f"best-{at.best_step}" if contest else "last")).iterdir():
            shutil.copy2(path, out.folder)
        skipped = len(data) - len(prompts)
        reasons = {"over --max-length": skipped} if skipped else {}
        last = {k: last_logged(out.folder, k) for k in (*SHOWN, "win_rate")}
        stats = {
            "steps": config.steps,
            "best_step": at.best_step if contest else config.steps,
            "best_win_rate": at.best_win_rate,
            "response_tokens": int(at.tokens),
            "reused_sampler_logprobs": learner.reuse_logprobs,
            "last": {k: v for k, v in last.items() if v is not None},
        }
        return out.commit(data.account(reasons.items()), stats)


@dataclass(frozen=True)
class At:
    """How far a run is: ``step`` done, response ``tokens`` sampled, and the best evaluation so far."""

    step: int = 0
    tokens: float = 0.0
    best_step: int = 0
    best_win_rate: float | None = None


def _save(learner: Learner, at: At, folder: Path) -> None:
    checkpoint = folder / f"checkpoint-{at.step}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save({"at": asdict(at), "learner": learner.state_dict()}, checkpoint / "state.pt")
    checkpoints.seal(checkpoint)
    _forget_old_best(at, folder)


def _forget_old_best(at: At, folder: Path) -> None:
    for old in folder.glob("best-*"):
        if old.name != f"best-{at.best_step}":
            shutil.rmtree(old)


def _resume(learner: Learner, checkpoint: Path | None) -> At:
    if checkpoint is None:
        return At()
    saved = torch.load(checkpoint / "state.pt", map_location=learner.policy.device, weights_only=True)
    learner.load_state_dict(saved["learner"])
    return At(**saved["at"])


def _learner(config: TrainPpoConfig, device: torch.device) -> Learner:
    codec = Codec.load(config.policy)
    reward_model = RewardModel.load(config.reward_model, config.dtype, config.reward)
    if config.granularity == "token" and reward_model.level == "sequence":
        raise UsageError(
            f"--granularity token, but {config.reward_model} gives one score a response",
            remedy="use --granularity sequence, or a token-level reward model (train-rm --level token)",
        )
    if not same_tokenizer(codec, reward_model.codec):
        raise InputError(
            f"the policy {config.policy} and the reward model {config.reward_model} have different tokenizers",
            remedy="train the reward model with the policy's tokenizer: tokalign diff … --tokenizer POLICY",
        )
    reward_model.normalise = config.normalise
    reward_model.model.to(device)
    return Learner(
        policy=loading.load_policy(config.policy, config.dtype).to(device),
        ref_policy=loading.load_policy(config.policy, config.dtype).to(device),
        value_model=loading.new_value_model(config.policy, config.dtype).to(device),
        reward_model=reward_model,
        codec=codec,
        knobs=config,
        generator=torch.Generator(device).manual_seed(config.seed),
    )


def _fits(prompt: list[int], config: TrainPpoConfig) -> bool:
    return len(prompt) + config.max_new_tokens <= config.max_length


def _batches(n: int, size: int, seed: int) -> Iterator[list[int]]:
    """Batches of prompt indices for ever; every prompt once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(n, generator=generator).tolist()
        yield queue[:size]
        queue = queue[size:]


def _judge(config: TrainPpoConfig, reward_model: RewardModel) -> Judge:
    if config.eval_judge == "playground":
        from tokalign.judges.playground import PlaygroundJudge

        return PlaygroundJudge()
    from tokalign.judges.reward import RewardJudge

    return RewardJudge(reward_model)


class Contest:
    """The policy as it is now against the one it started from, on held-out prompts, with fixed draws."""

    def __init__(self, config: TrainPpoConfig, learner: Learner, rows: list[PromptRow], judge: Judge) -> None:
        self.config, self.judge, self.codec = config, judge, learner.codec
        self.prompts = [r.prompt for r in rows]
        self.ids = self.codec.prompts(self.prompts)
        self.reference = self._respond(learner.ref_policy, config.seed + 1)

    def _respond(self, policy: Any, seed: int) -> list[str]:
        drawn = respond(policy, self.codec, self.ids, self.config, seed, self.config.batch_size)
        return [text for text, _ in drawn]

    def hold(self, policy: Any) -> dict[str, float]:
        """Win rate in percent, and its standard error."""
        compared = self.judge.compare(self.prompts, self.reference, self._respond(policy, self.config.seed + 2))
        result = winrate.win_rate([c.preference for c in compared])
        return {"win_rate": result["win_rate"], "win_rate_error": result["standard_error"]}
