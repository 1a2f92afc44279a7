"""``tokalign train-ppo``: prompts, a policy and what pays in; a better policy out."""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tokalign.artifacts import checkpoints
from tokalign.artifacts.manifest import Manifest
from tokalign.artifacts.metrics import MetricsLog, last_logged
from tokalign.artifacts.schemas import PromptRow
from tokalign.artifacts.workspace import CHECKPOINTS, Workspace
from tokalign.artifacts.writer import Writer, writing
from tokalign.config.stages import TrainPpoConfig
from tokalign.core import reward_hacking
from tokalign.data import dataset
from tokalign.errors import InputError, StoppedError, UsageError
from tokalign.judges import Comparer
from tokalign.models import distributed, loading, reward_functions
from tokalign.models.distributed import broadcast, is_main_process, main_process_writes
from tokalign.models.prompts import renderable
from tokalign.models.token_rewards import token_rewards_row
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo import rewards as ppo_rewards
from tokalign.ppo.evaluation import PolicyEvaluation
from tokalign.ppo.networks import Networks
from tokalign.ppo.rollout import PromptItem
from tokalign.ppo.trainer import Learner
from tokalign.runtime import signals
from tokalign.runtime.dashboard import Dashboard

LAST = f"{CHECKPOINTS}/last"
SHOWN = ("reward", "kl", "length", "win_rate")


def run(config: TrainPpoConfig) -> Manifest | None:
    """Train; keep the checkpoint that wins most on ``--eval-prompts`` (without them, the last)."""
    _refuse(config)
    data = dataset.read_rows(config.prompts, PromptRow, "prompts", options=config, limit=config.limit)
    inputs = {"prompts": data.lineage, "policy": dataset.model_lineage(config.policy, "policy")}
    for k, source in enumerate(config.reward_model):
        inputs["reward_model" if k == 0 else f"reward_model_{k + 1}"] = reward_functions.lineage(source)
    heldout = None
    if config.eval_prompts:
        heldout = dataset.read_rows(config.eval_prompts, PromptRow, "prompts")
        inputs["eval_prompts"] = heldout.lineage

    follower = Writer(config.out, "policy", config, inputs)
    with main_process_writes(writing("policy", config, inputs), follower) as out:
        if out.finished is not None:
            return out.finished if is_main_process() else None
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer.load(config.policy, config)
        networks = Networks(config.policy, config, loading.pick_device(config.device), tokenizer)
        functions = ppo_rewards.load(config.reward_model, tokenizer, networks)
        readers = [
            tokenizer,
            *(p.model.tokenizer for p in functions if isinstance(p, reward_functions.ModelReward) and p.foreign),
        ]
        data, notes = renderable(data, readers, config.strict)
        rows = [
            PromptItem(r.prompt, ids) for r, ids in zip(data, tokenizer.prompts([r.prompt for r in data]), strict=True)
        ]
        fitting = [a for a in rows if len(a.ids) + config.max_new_tokens <= config.max_length]
        if not fitting:
            raise InputError("no prompt leaves room for a response", where=config.prompts, remedy="raise --max-length")
        most = loading.positions(networks.policy)
        if most is not None and config.max_length > most:
            raise InputError(
                f"--max-length is {config.max_length}, and the policy can read {most} tokens",
                where=config.policy,
                remedy=f"--max-length {most}",
            )
        weights = config.reward_weight or [1.0] * len(functions)
        learner = Learner(networks, functions, tokenizer, config, weights, torch.Generator().manual_seed(config.seed))
        evaluation, refused = None, dict[str, int]()
        if heldout is not None:
            found = renderable(heldout, readers, config.strict)
            notes += [f"--eval-prompts: {note}" for note in found.notes]
            refused = {why: n for why, n in found.rows.reasons.items() if why not in heldout.reasons}
            notes += [f"--eval-prompts: left out {n}: {why}" for why, n in refused.items()]
            heldout = found.rows
            evaluation = PolicyEvaluation(
                networks, tokenizer, list(heldout), COMPARERS[config.eval_judge](learner), learner.collector.sampler
            )
            if not evaluation.ids:
                raise InputError("no prompt leaves room for a response", where=str(config.eval_prompts))

        at, warned = _train(learner, evaluation, fitting, config, out.space)
        if not is_main_process():
            return None
        with out.space.saving(LAST) as scratch:
            tokenizer.save(scratch)
        with out.space.saving() as scratch:
            tokenizer.save(scratch)
            networks.export(out.folder / (_best(at.best_step) if evaluation else LAST), scratch)
        skipped = len(data) - len(fitting)
        reasons = {"over --max-length": skipped} if skipped else {}
        last = {k: last_logged(out.folder, k) for k in SHOWN}
        stats = {
            "steps": at.step,
            "stopped": at.stopped,
            "best_step": at.best_step if evaluation else at.step,
            "best_win_rate": at.best_win_rate,
            "response_tokens": int(at.tokens),
            "reused_sampler_logprobs": learner.collector.reuse_logprobs,
            "warnings": warned,
            **(
                {
                    "eval_prompts": len(evaluation.ids),
                    "eval_prompts_left_out": evaluation.left_out + sum(refused.values()),
                }
                if evaluation
                else {}
            ),
            "last": {k: v for k, v in last.items() if v is not None},
            **({"notes": notes} if notes else {}),
        }
        return out.commit(data.account(reasons.items()), stats)


def _refuse(config: TrainPpoConfig) -> None:
    """Raise UsageError for options that do not go together."""
    wrong = [
        (config.batch_size % distributed.world(), "--batch-size", f"a multiple of the {distributed.world()} processes"),
        (config.minibatches > config.batch_size, "--minibatches", "at most --batch-size"),
        (config.patience and not config.eval_prompts, "--patience", "give --eval-prompts to evaluate on"),
        (config.dtype == "float16", "--dtype", "PPO trains in bfloat16 or float32"),
        (config.kl_target and not config.kl_coef, "--kl-target", "give a --kl-coef to begin with: 0 stays 0"),
        (not config.temperature, "--temperature", "above 0: nothing is learnt from the likeliest responses alone"),
    ]
    weights, models = len(config.reward_weight), len(config.reward_model)
    if weights not in (0, models):
        raise UsageError(f"{weights} --reward-weight for {models} --reward-model", remedy="give one for each, in order")
    if config.report_to == "wandb" and find_spec("wandb") is None:
        raise UsageError("--report-to wandb needs wandb", remedy="pip install wandb")
    for found, option, remedy in wrong:
        if found:
            raise UsageError(f"{option} is {getattr(config, option[2:].replace('-', '_'))}", remedy=remedy)


@dataclass(frozen=True)
class At:
    """How far a run is."""

    step: int = 0
    tokens: float = 0.0
    """Response tokens sampled."""
    best_step: int = 0
    best_win_rate: float | None = None
    stale: int = 0
    """Evaluations since the best."""
    stopped: str = ""
    """Why the run ended before its last step."""
    asked: int = 0
    """Steps that were asked for."""


def _train(
    learner: Learner,
    evaluation: PolicyEvaluation | None,
    prompts: Sequence[PromptItem],
    config: TrainPpoConfig,
    space: Workspace,
) -> tuple[At, dict[str, str]]:
    """All steps that are left. Returns how far the run came, and the signs of reward hacking it showed."""
    batches = _batches(len(prompts), config.batch_size, config.seed)
    with Dashboard("train-ppo", config.steps, config.quiet or not is_main_process()) as bar:
        at, warned = _resume(learner, broadcast(lambda: checkpoints.newest(space, bar.say)), config.steps)
        bar.skip_to(at.step)
        if evaluation is not None and evaluation.left_out:
            bar.say(
                f"{evaluation.left_out} held-out prompts leave no room for a response (--max-length) and are left out"
            )
        for _ in range(at.step):
            next(batches)
        with MetricsLog(space, config.report_to, after=at.step) if is_main_process() else nullcontext() as log:
            for step in range(at.step + 1, config.steps + 1):
                if at.stopped:
                    break
                metrics: dict[str, Any] = learner.step([prompts[i] for i in next(batches)])
                at = replace(at, step=step, tokens=at.tokens + metrics["length"] * config.batch_size)
                far = _too_far(metrics, config)
                if evaluation is not None and (step % config.eval_every == 0 or step == config.steps or far):
                    metrics |= evaluation.evaluate()
                    at = _judged(at, metrics["win_rate"], learner, space)
                new = reward_hacking.signs(learner.first, metrics, at.best_win_rate)
                for name in new.keys() - warned.keys():
                    warned[name] = f"step {step}: {new[name]}"
                    bar.say(f"beware, {warned[name]}; see {space.folder / 'samples'}")
                at = replace(at, stopped=far or _no_better(at, config))
                if log:
                    log.write(step, metrics)
                if (
                    is_main_process()
                    and config.sample_every
                    and (step % config.sample_every == 0 or step == config.steps)
                ):
                    _keep_samples(learner, space, step)
                bar.advance(1, **metrics)
                signal = distributed.all_reduce_max(signals.received())
                if step % config.save_every == 0 or step == config.steps or at.stopped or signal:
                    _save(learner, at, warned, space)
                if signal:  # all processes end, whichever of them it has reached
                    raise StoppedError(signal)
    if at.stopped:
        bar.say(f"stopped after step {at.step}: {at.stopped}")
    with space.saving(LAST) as scratch:
        learner.networks.save_policy(scratch)
    if is_main_process():
        checkpoints.keep_last(space)
        _forget_old_best(at, space)
    return at, warned


def _judged(at: At, win_rate: float, learner: Learner, space: Workspace) -> At:
    """An evaluation was held: the best policy so far is kept."""
    if at.best_win_rate is not None and win_rate <= at.best_win_rate:
        return replace(at, stale=at.stale + 1)
    with space.saving(_best(at.step)) as scratch:
        learner.networks.save_policy(scratch)
    return replace(at, best_step=at.step, best_win_rate=win_rate, stale=0)


def _too_far(metrics: dict[str, Any], config: TrainPpoConfig) -> str:
    """That the policy has left the reference too far, or ""."""
    if config.stop_kl and metrics["kl"] > config.stop_kl:
        return f"KL {metrics['kl']:.1f} is over {config.stop_kl:g}"
    return ""


def _no_better(at: At, config: TrainPpoConfig) -> str:
    """That the win rate has not risen for too long, or ""."""
    if config.patience and at.stale >= config.patience:
        return f"no better than at step {at.best_step} for {at.stale} evaluations"
    return ""


def _keep_samples(learner: Learner, space: Workspace, step: int) -> None:
    """Some responses of the last rollout with their rewards, as rows of ``token-rewards``."""
    assert learner.samples is not None
    prompts, responses, rewards = learner.samples
    texts, places = learner.tokenizer.located(responses)
    pieces, found = learner.tokenizer.pieces, zip(prompts, responses, rewards, texts, places, strict=True)
    rows = [
        token_rewards_row(
            (f"step-{step:05d}-{k}", 0),
            item.prompt,
            text,
            pieces(ids),
            where,
            reward,
            (sum(reward) / len(reward), sum(reward)),
        )
        for k, (item, ids, reward, text, where) in enumerate(found)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    space.write(f"samples/step-{step:05d}.jsonl", text)


def _save(learner: Learner, at: At, warned: dict[str, str], space: Workspace) -> None:
    state = learner.state_dict()  # of sharded weights all have a part
    if not is_main_process():
        return
    made = space.folder / space.scratch
    made.mkdir()
    torch.save({"at": asdict(at), "warned": warned, "learner": state}, made / "state.pt")
    checkpoints.keep(space, made, at.step)
    made.rmdir()
    _forget_old_best(at, space)


def _best(step: int) -> str:
    return f"{CHECKPOINTS}/best-{step}"


def _forget_old_best(at: At, space: Workspace) -> None:
    for name in {"/".join(name.split("/")[:2]) for name in space.names(CHECKPOINTS)}:
        if name.startswith(_best(0)[:-1]) and name != _best(at.best_step):
            space.remove(name)


def _resume(learner: Learner, checkpoint: Path | None, steps: int) -> tuple[At, dict[str, str]]:
    if checkpoint is None:
        return At(asked=steps), {}
    where = "cpu" if distributed.sharded() else learner.networks.device
    saved = torch.load(checkpoint / "state.pt", map_location=where, weights_only=True, mmap=True)
    learner.load_state_dict(saved["learner"])
    at = At(**saved["at"])
    if steps > at.asked:
        at = replace(at, asked=steps)
        if at.stopped:  # of a run that stopped by itself more is asked now
            at = replace(at, stopped="", stale=0)
    return at, saved["warned"]


def _batches(n: int, size: int, seed: int) -> Iterator[list[int]]:
    """Batches of prompt indices for ever; every prompt once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(n, generator=generator).tolist()
        yield queue[:size]
        queue = queue[size:]


def _by_rules(_: Learner) -> Comparer:
    from tokalign.judges.playground import PlaygroundJudge

    return PlaygroundJudge()


def _by_rewards(learner: Learner) -> Comparer:
    from tokalign.judges.reward import RewardJudge

    k = learner.options
    return RewardJudge(
        learner.reward_functions,
        learner.weights,
        learner.tokenizer,
        k.dtype,
        k.microbatch,
        ended_wins=bool(k.missing_eos_penalty),
    )


COMPARERS = {"playground": _by_rules, "reward": _by_rewards}
"""By the name of ``--eval-judge``."""
