"""The table of commands: name, options dataclass, module, and the description that ``--help`` shows."""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokalign.config.options import Options


class Command(NamedTuple):
    """A command of the command line."""

    options: str
    """Name of its options dataclass in :mod:`tokalign.config.stages`."""
    module: str
    """Module whose function ``run`` executes it."""
    about: str
    """Description for ``--help``."""

    def load_options(self) -> "type[Options]":
        """Import and return the options dataclass. The import is deferred to keep ``tokalign --help`` fast."""
        options: type[Options] = getattr(importlib.import_module("tokalign.config.stages"), self.options)
        return options


COMMANDS = {
    "playground": Command(
        "PlaygroundConfig",
        "tokalign.stages.playground",
        "Generate the playground: synthetic preferences, SFT data, and disjoint training, held-out and test prompts.",
    ),
    "edit": Command(
        "EditConfig",
        "tokalign.stages.edit",
        "Improve the less preferred response of each pair with a minimal edit, by Claude, a person or rules.",
    ),
    "diff": Command(
        "DiffConfig",
        "tokalign.stages.diff",
        "Label every token of the original and the edited responses as bad, neutral or good.",
    ),
    "train-sft": Command(
        "TrainSftConfig",
        "tokalign.stages.sft",
        "Fine-tune a policy on prompts with responses, or on edited responses: the starting point of PPO.",
    ),
    "train-rm": Command(
        "TrainRmConfig",
        "tokalign.stages.reward",
        "Train a reward model that rewards every token, or one that gives a single score per response.",
    ),
    "eval-rm": Command(
        "EvalRmConfig", "tokalign.stages.eval_rm", "Measure a reward model on any labels, as train-rm does on its own."
    ),
    "generate": Command(
        "GenerateConfig", "tokalign.stages.generate", "Sample responses from a policy, or the best of n."
    ),
    "score": Command("ScoreConfig", "tokalign.stages.score", "Compute the reward of every token of a response."),
    "train-ppo": Command(
        "TrainPpoConfig",
        "tokalign.stages.ppo",
        "Train a policy with PPO, with a reward at every token or one at the end of the response.",
    ),
    "eval-winrate": Command(
        "EvalWinrateConfig",
        "tokalign.stages.winrate",
        "Measure how often a judge prefers the responses of each candidate to those of the reference.",
    ),
    "merge": Command(
        "MergeConfig",
        "tokalign.stages.merge",
        "Join the parts of a run of edit, diff, generate or score that was divided with --shard.",
    ),
    "export": Command(
        "ExportConfig",
        "tokalign.stages.export",
        "Export edits, preferences or responses to a file in another tool's layout.",
    ),
    "report": Command(
        "ReportConfig",
        "tokalign.report.page",
        "Write one HTML page with all artifacts below a folder: labels, rewards, training curves, win rates.",
    ),
    "verify": Command(
        "VerifyConfig",
        "tokalign.report.verify",
        "Verify artifacts: the hashes of their content, the inputs they were made from, and their recorded cost.",
    ),
    "show": Command(
        "ShowConfig",
        "tokalign.report.show",
        "Show an artifact, or all artifacts below a folder, in the terminal.",
    ),
}
