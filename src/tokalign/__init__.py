"""Train language models with token-level rewards: minimal edits, token labels, reward models, PPO.

>>> import tokalign as ta
>>> labels = ta.label("The cat sat.", "The dog sat.", tokenizer=tokenizer)
>>> ta.RewardModel.load("runs/rm-token").score(prompts, responses)
>>> ta.edit("pairs.jsonl", out="edits", editor="claude", model="claude-haiku-4-5", max_cost=5)
>>> ta.read("edits")

Every command of the command line is also a function. See docs/library.md.
"""

from typing import Any

__version__ = "0.2.0"

_COMMANDS = (
    "edit", "diff", "train_sft", "train_rm", "eval_rm", "generate", "score", "train_ppo", "eval_winrate", "merge",
    "export", "make_playground", "make_report",
)  # fmt: skip
_ELSEWHERE = {
    "label": "labels", "Labels": "labels", "Side": "labels", "read": "reading", "RewardModel": "scoring",
    "ScoredResponse": "scoring", "ScoredToken": "scoring",
}  # fmt: skip
__all__ = ["__version__", *_COMMANDS, *_ELSEWHERE]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used. This keeps ``import tokalign`` fast."""
    import importlib

    if name in _COMMANDS:
        value: Any = importlib.import_module("tokalign.api.commands").function(name)
    elif name in _ELSEWHERE:
        value = getattr(importlib.import_module(f"tokalign.api.{_ELSEWHERE[name]}"), name)
    else:
        raise AttributeError(f"module 'tokalign' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
