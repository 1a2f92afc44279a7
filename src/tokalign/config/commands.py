"""The commands: of each the dataclass of its options, the module that works, and what it is for."""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokalign.config.options import Options


class Command(NamedTuple):
    """A command: its dataclass in :mod:`tokalign.config.stages`, the module whose ``run`` works, its help."""

    options: str
    module: str
    about: str

    def load_options(self) -> "type[Options]":
        """The dataclass, imported only when the command is asked for."""
        found: type[Options] = getattr(importlib.import_module("tokalign.config.stages"), self.options)
        return found


COMMANDS = {
    "playground": Command(
        "PlaygroundConfig",
        "tokalign.stages.playground",
        "Make the offline world: preferences, sft data and three sets of prompts that never overlap.",
    ),
    "edit": Command(
        "EditConfig",
        "tokalign.stages.edit",
        "Edit the less preferred response of each pair as little as possible, so that it becomes the better one.",
    ),
    "diff": Command(
        "DiffConfig", "tokalign.stages.diff", "Label every token of original and edited: bad, neutral or good."
    ),
    "train-sft": Command(
        "TrainSftConfig",
        "tokalign.stages.sft",
        "Train the policy that PPO starts from, on prompts with responses (or on the edited side of edits).",
    ),
    "train-rm": Command(
        "TrainRmConfig",
        "tokalign.stages.reward",
        "Train a reward model: one that judges every token, or the classical one that scores the whole.",
    ),
    "generate": Command("GenerateConfig", "tokalign.stages.generate", "Sample responses from a policy."),
    "score": Command("ScoreConfig", "tokalign.stages.score", "Reward every token of any response."),
    "train-ppo": Command(
        "TrainPpoConfig",
        "tokalign.stages.ppo",
        "Train a policy by PPO, with a reward at every token or one at the end.",
    ),
    "eval-winrate": Command(
        "EvalWinrateConfig", "tokalign.stages.winrate", "How often a judge prefers each candidate to the reference."
    ),
    "export": Command(
        "ExportConfig", "tokalign.stages.export", "Write edits, preferences or responses in another tool's layout."
    ),
    "report": Command(
        "ReportConfig",
        "tokalign.report.page",
        "Write one page of all that was made: labels, rewards, curves, win rates.",
    ),
    "verify": Command(
        "VerifyConfig",
        "tokalign.report.verify",
        "Check that artifacts are what they say: content, what they were made from, what was paid.",
    ),
    "show": Command(
        "ShowConfig",
        "tokalign.report.show",
        "Look at an artifact, or at all artifacts below a folder, in the terminal.",
    ),
}
