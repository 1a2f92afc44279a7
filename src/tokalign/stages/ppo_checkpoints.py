"""What ``tokalign train-ppo`` keeps while it trains: checkpoints, the best policy, and samples."""

import json
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from tokalign.artifacts import checkpoints
from tokalign.artifacts.workspace import CHECKPOINTS, Workspace
from tokalign.config.stages import TrainPpoConfig
from tokalign.models import distributed
from tokalign.models.distributed import is_main_process
from tokalign.models.token_rewards import token_rewards_row
from tokalign.ppo.evaluation import PolicyEvaluation
from tokalign.ppo.trainer import Learner
from tokalign.runtime.time_limit import REASON, TimeLimit


@dataclass(frozen=True)
class TrainingState:
    """Progress of a run. Saved in every checkpoint."""

    step: int = 0
    """Number of finished steps."""
    tokens: float = 0.0
    """Number of response tokens sampled so far."""
    best_step: int = 0
    best_win_rate: float | None = None
    stale: int = 0
    """Number of evaluations since the best one."""
    stopped: str = ""
    """Reason for stopping before the last step; "" if there is none."""
    asked: int = 0
    """Requested number of steps."""
    seconds: float = 0.0
    """Time of training so far."""


def keep_best(state: TrainingState, win_rate: float, learner: Learner, space: Workspace) -> TrainingState:
    """Save the policy if its win rate is the highest so far. Returns the new state."""
    if state.best_win_rate is not None and win_rate <= state.best_win_rate:
        return replace(state, stale=state.stale + 1)
    with space.saving(best_folder(state.step)) as scratch:
        learner.networks.save_policy(scratch)
    return replace(state, best_step=state.step, best_win_rate=win_rate, stale=0)


def save_samples(learner: Learner, space: Workspace, step: int) -> None:
    """Save some responses of the last rollout with their rewards, as rows of ``token-rewards/1``."""
    assert learner.samples is not None
    prompts, responses, rewards = learner.samples
    texts, offsets = learner.tokenizer.located(responses)
    rows = [
        token_rewards_row(
            (f"step-{step:05d}-{k}", 0),
            item.prompt,
            text,
            learner.tokenizer.pieces(ids),
            spans,
            reward,
            (sum(reward) / len(reward), sum(reward)),
        )
        for k, (item, ids, reward, text, spans) in enumerate(
            zip(prompts, responses, rewards, texts, offsets, strict=True)
        )
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    space.write(f"samples/step-{step:05d}.jsonl", text)


def save_look(evaluation: PolicyEvaluation, n: int, space: Workspace, step: int) -> None:
    """Save the responses to the first ``n`` held-out prompts, with those of the starting policy and the verdict."""
    if not n or not is_main_process():
        return
    assert evaluation.last is not None
    columns = (evaluation.prompts, evaluation.last.responses, evaluation.reference, evaluation.last.verdict)
    rows = [
        {
            "id": f"step-{step:05d}-{k}",
            "prompt": prompt,
            "response": response.text,
            "finished": response.finished,
            "reference": reference.text,
            "preference": preference,
        }
        for k, (prompt, response, reference, preference) in enumerate(islice(zip(*columns, strict=True), n))
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    space.write(f"looks/step-{step:05d}.jsonl", text)


def save_checkpoint(learner: Learner, state: TrainingState, warnings: dict[str, str], space: Workspace) -> None:
    """Save a checkpoint. Collective: every process must call it."""
    learner_state = learner.state_dict()  # called in every process, because each holds a part of sharded weights
    if not is_main_process():
        return
    folder = space.folder / space.scratch
    folder.mkdir()
    torch.save({"at": asdict(state), "warned": warnings, "learner": learner_state}, folder / "state.pt")
    checkpoints.keep(space, folder, state.step)
    folder.rmdir()
    delete_old_best(state, space)


def best_folder(step: int) -> str:
    """Name of the folder of the best policy, which has its step."""
    return f"{CHECKPOINTS}/best-{step}"


def delete_old_best(state: TrainingState, space: Workspace) -> None:
    """Delete all but the best policy."""
    for name in {"/".join(name.split("/")[:2]) for name in space.names(CHECKPOINTS)}:
        if name.startswith(best_folder(0)[:-1]) and name != best_folder(state.best_step):
            space.remove(name)


def resume(learner: Learner, checkpoint: Path | None, config: TrainPpoConfig) -> tuple[TrainingState, dict[str, str]]:
    """Load a checkpoint into the learner. Returns the state of the run and its warnings so far."""
    if checkpoint is None:
        return TrainingState(asked=config.steps), {}
    device = "cpu" if distributed.sharded() else learner.networks.device
    saved = torch.load(checkpoint / "state.pt", map_location=device, weights_only=True, mmap=True)
    learner.load_state_dict(saved["learner"])
    state = TrainingState(**saved["at"])
    # With more time or more --steps, a run that stopped early continues.
    if state.stopped.startswith(REASON):
        more = not TimeLimit(config.max_minutes, state.seconds).reason
    else:
        more = config.steps > state.asked
    state = replace(state, asked=max(state.asked, config.steps))
    if more:
        state = replace(state, stopped="", stale=0)
    return state, saved["warned"]
