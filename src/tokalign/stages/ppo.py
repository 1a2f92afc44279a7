"""``tokalign train-ppo``: read prompts, train a policy with PPO and reward functions."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from tokalign.artifacts import checkpoints
from tokalign.artifacts.metrics import MetricsLog, last_logged
from tokalign.artifacts.result import StageResult
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
from tokalign.models.function_names import is_function
from tokalign.models.prompts import renderable
from tokalign.models.tokenizer import Tokenizer
from tokalign.ppo import rewards as ppo_rewards
from tokalign.ppo.evaluation import PolicyEvaluation
from tokalign.ppo.networks import Networks
from tokalign.ppo.rollout import PromptItem
from tokalign.ppo.trainer import Learner
from tokalign.runtime import signals
from tokalign.runtime.dashboard import Dashboard
from tokalign.runtime.time_limit import TimeLimit
from tokalign.stages.ppo_checkpoints import (
    TrainingState,
    best_folder,
    delete_old_best,
    keep_best,
    resume,
    save_checkpoint,
    save_look,
    save_samples,
)

LAST = f"{CHECKPOINTS}/last"
SHOWN = ("reward", "kl", "length", "win_rate")
"""Metrics whose last values are written to the manifest."""


def run(config: TrainPpoConfig) -> StageResult:
    """Train a policy. The result is the checkpoint with the highest win rate on ``--eval-prompts``, or the last one.

    Returns:
        The manifest; an empty result in all but the main process.
    """
    # 1. Check the options and read the prompts.
    _check_options(config)
    data = dataset.read_rows(config.prompts, PromptRow, "prompts", options=config, limit=config.limit)
    inputs = {"prompts": data.lineage, "policy": dataset.model_lineage(config.policy, "policy")}
    for k, source in enumerate(config.reward_model):
        inputs["reward_model" if k == 0 else f"reward_model_{k + 1}"] = reward_functions.lineage(source)
    heldout = None
    if config.eval_prompts:
        heldout = dataset.read_rows(config.eval_prompts, PromptRow, "prompts")
        inputs["eval_prompts"] = heldout.lineage
        if is_function(config.eval_judge):
            inputs["eval_judge"] = reward_functions.function_lineage(config.eval_judge)

    follower = Writer(config.out, "policy", config, inputs)
    with main_process_writes(writing("policy", config, inputs), follower) as out:
        if out.finished is not None:
            return StageResult.of(out.folder, out.finished) if is_main_process() else StageResult()

        # 2. Load the networks and the reward functions.
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer.load(config.policy, config)
        networks = Networks(config.policy, config, loading.pick_device(config.device), tokenizer)
        functions = ppo_rewards.load(config.reward_model, tokenizer, networks)
        tokenizers = [
            tokenizer,
            *(f.model.tokenizer for f in functions if isinstance(f, reward_functions.ModelReward) and f.foreign),
        ]

        # 3. Skip prompts that a model cannot read or that leave no room for a response.
        data, notes = renderable(data, tokenizers, config.strict)
        prompts = _fitting(data, networks, tokenizer, config)

        # 4. Prepare the training steps and the evaluation.
        weights = config.reward_weight or [1.0] * len(functions)
        learner = Learner(networks, functions, tokenizer, config, weights, torch.Generator().manual_seed(config.seed))
        evaluation, refused = None, dict[str, int]()
        if heldout is not None:
            readable = renderable(heldout, tokenizers, config.strict)
            refused = {reason: n for reason, n in readable.rows.reasons.items() if reason not in heldout.reasons}
            notes += [f"--eval-prompts: {note}" for note in readable.notes]
            notes += [f"--eval-prompts: left out {n}: {reason}" for reason, n in refused.items()]
            comparer = _comparer(config.eval_judge, learner)
            evaluation = PolicyEvaluation(networks, tokenizer, list(readable.rows), comparer, learner.collector.sampler)
            if not evaluation.ids:
                raise _no_room(config, str(config.eval_prompts))

        # 5. Train.
        state, warnings = _train(learner, evaluation, prompts, config, out.space)
        if not is_main_process():
            return StageResult()

        # 6. Add the tokenizer to the last policy, export the best (or last) one, and write the statistics.
        with out.space.saving(LAST) as scratch:
            tokenizer.save(scratch)
        with out.space.saving() as scratch:
            tokenizer.save(scratch)
            networks.export(out.folder / (best_folder(state.best_step) if evaluation else LAST), scratch)
        skipped = len(data) - len(prompts)
        reasons = {"over --max-length": skipped} if skipped else {}
        last = {k: last_logged(out.folder, k) for k in SHOWN}
        stats = {
            "steps": state.step,
            "stopped": state.stopped,
            "best_step": state.best_step if evaluation else state.step,
            "best_win_rate": state.best_win_rate,
            "response_tokens": int(state.tokens),
            "reused_sampler_logprobs": learner.collector.mismatch.reuse,
            "warnings": warnings,
            **(
                {
                    "eval_prompts": len(evaluation.ids),
                    "eval_prompts_left_out": evaluation.left_out + sum(refused.values()),
                }
                if evaluation
                else {}
            ),
            "last": {k: v for k, v in last.items() if v is not None},
        }
        return StageResult.of(out.folder, out.commit(data.account(reasons.items()), stats, notes=notes))


def _check_options(config: TrainPpoConfig) -> None:
    """Check combinations of options.

    Raises:
        UsageError: options conflict, or an option needs another one or a missing package.
    """
    processes = distributed.world()
    checks = [
        (config.batch_size % processes, "--batch-size", f"give a multiple of the number of processes, {processes}"),
        (config.minibatches > config.batch_size, "--minibatches", f"give at most --batch-size, {config.batch_size}"),
        (config.patience and not config.eval_prompts, "--patience", "give --eval-prompts for the evaluations"),
        (
            config.eval_judge not in ("playground", "reward") and not is_function(config.eval_judge),
            "--eval-judge",
            "give playground, reward or MODULE:NAME",
        ),
        (config.dtype == "float16", "--dtype", "PPO supports float32 and bfloat16"),
        (config.kl_target and not config.kl_coef, "--kl-target", "give a --kl-coef above 0; 0 cannot be adapted"),
        (not config.temperature, "--temperature", "give a value above 0; PPO needs random samples"),
    ]
    weights, models = len(config.reward_weight), len(config.reward_model)
    if weights not in (0, models):
        raise UsageError(
            f"{weights} --reward-weight for {models} --reward-model", remedy="give one for each, in the same order"
        )
    if config.report_to == "wandb" and find_spec("wandb") is None:
        raise UsageError("--report-to wandb needs the package wandb", remedy="pip install wandb")
    for invalid, option, remedy in checks:
        if invalid:
            raise UsageError(f"{option} is {getattr(config, option[2:].replace('-', '_'))}", remedy=remedy)


def _fitting(
    data: dataset.Rows[PromptRow], networks: Networks, tokenizer: Tokenizer, config: TrainPpoConfig
) -> list[PromptItem]:
    """Tokenize the prompts, and return those that leave room for a response of ``--max-new-tokens``.

    Raises:
        InputError: there is no such prompt, or the policy cannot read ``--max-length`` tokens.
    """
    token_ids = tokenizer.prompts([r.prompt for r in data])
    items = [PromptItem(r.prompt, ids) for r, ids in zip(data, token_ids, strict=True)]
    fitting = [item for item in items if len(item.ids) + config.max_new_tokens <= config.max_length]
    if not fitting:
        raise _no_room(config, config.prompts)
    limit = loading.max_positions(networks.policy)
    if limit is not None and config.max_length > limit:
        raise InputError(
            f"--max-length is {config.max_length}, but the policy reads at most {limit} tokens",
            where=config.policy,
            remedy=f"pass --max-length {limit}",
        )
    return fitting


def _no_room(config: TrainPpoConfig, where: str) -> InputError:
    return InputError(
        f"no prompt leaves room for {config.max_new_tokens} new tokens within --max-length {config.max_length}",
        where=where,
        remedy="raise --max-length or lower --max-new-tokens",
    )


def _train(
    learner: Learner,
    evaluation: PolicyEvaluation | None,
    prompts: Sequence[PromptItem],
    config: TrainPpoConfig,
    space: Workspace,
) -> tuple[TrainingState, dict[str, str]]:
    """Run the remaining steps.

    Returns:
        The final state, and the signs of reward hacking by name.
    """
    batches = _batches(len(prompts), config.batch_size, config.seed)
    with Dashboard("train-ppo", config.steps, config.quiet or not is_main_process()) as bar:
        # 1. Resume from the newest checkpoint, if there is one.
        state, warnings = resume(learner, broadcast(lambda: checkpoints.newest(space, bar.say)), config)
        limit = TimeLimit(config.max_minutes, state.seconds)
        bar.skip_to(state.step)
        if evaluation is not None and evaluation.left_out:
            bar.say(
                f"skipping {evaluation.left_out} of --eval-prompts: they leave no room for --max-new-tokens within "
                "--max-length"
            )
        for _ in range(state.step):
            next(batches)
        with MetricsLog(space, config.report_to, after=state.step) if is_main_process() else nullcontext() as log:
            for step in range(state.step + 1, config.steps + 1):
                if state.stopped:
                    break

                # 2. Train on one batch of prompts.
                metrics: dict[str, Any] = learner.step([prompts[i] for i in next(batches)])
                state = replace(state, step=step, tokens=state.tokens + metrics["length"] * config.batch_size)

                # 3. Evaluate the policy, and save it if it is the best so far.
                over = _over_kl(metrics, config) or broadcast(lambda: limit.reason)
                if evaluation is not None and (step % config.eval_every == 0 or step == config.steps or over):
                    metrics |= evaluation.evaluate()
                    save_look(evaluation, config.look_samples, space, step)
                    state = keep_best(state, metrics["win_rate"], learner, space)

                # 4. Warn of reward hacking, and decide whether to stop.
                new = reward_hacking.signs(learner.first, metrics, state.best_win_rate)
                for name in new.keys() - warnings.keys():
                    warnings[name] = f"step {step}: {new[name]}"
                    bar.say(f"warning: {warnings[name]}; see {space.folder / 'samples'}")
                state = replace(state, stopped=over or _out_of_patience(state, config), seconds=limit.spent)

                # 5. Log metrics and samples, and save a checkpoint.
                if log:
                    log.write(step, metrics)
                last = step == config.steps or bool(state.stopped)
                if is_main_process() and config.sample_every and (step % config.sample_every == 0 or last):
                    save_samples(learner, space, step)
                bar.advance(1, **metrics)
                signal = distributed.all_reduce_max(signals.received())
                if step % config.save_every == 0 or last or signal:
                    save_checkpoint(learner, state, warnings, space)
                if signal:  # all processes stop, even if only one of them received the signal
                    raise StoppedError(signal)
    if state.stopped:
        bar.say(f"stopped after step {state.step}: {state.stopped}")
    with space.saving(LAST) as scratch:
        learner.networks.save_policy(scratch)
    if is_main_process():
        checkpoints.keep_last(space)
        delete_old_best(state, space)
    return state, warnings


def _over_kl(metrics: dict[str, Any], config: TrainPpoConfig) -> str:
    """Return a reason for stopping if the KL divergence exceeds ``--stop-kl``, else ""."""
    if config.stop_kl and metrics["kl"] > config.stop_kl:
        return f"KL {metrics['kl']:.1f} is over {config.stop_kl:g}"
    return ""


def _out_of_patience(state: TrainingState, config: TrainPpoConfig) -> str:
    """Return a reason for stopping after ``--patience`` evaluations without a higher win rate, else ""."""
    if config.patience and state.stale >= config.patience:
        return f"no better than at step {state.best_step} for {state.stale} evaluations"
    return ""


def _batches(n: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of prompt indices without end. Every prompt is used once before any is repeated."""
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

    options = learner.options
    return RewardJudge(
        learner.reward_functions,
        learner.weights,
        learner.tokenizer,
        options.dtype,
        options.microbatch,
        ended_wins=bool(options.missing_eos_penalty),
    )


def _comparer(judge: str, learner: Learner) -> Comparer:
    """Create the comparer that ``--eval-judge`` names."""
    if is_function(judge):
        from tokalign.judges.function import FunctionJudge

        return FunctionJudge(judge)
    return {"playground": _by_rules, "reward": _by_rewards}[judge](learner)
