"""Rows whose prompts all models of a command can read; the others are skipped, with their place, before work begins."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from tokalign.artifacts.schemas import Row
from tokalign.data.conversation import as_messages
from tokalign.data.rows import Rows
from tokalign.models.chat_templates import thinks
from tokalign.models.tokenizer import Tokenizer

R = TypeVar("R", bound=Row)


class Renderable(NamedTuple, Generic[R]):
    """What is left, and what there is to say of how it is read."""

    rows: Rows[R]
    notes: list[str]


def renderable(rows: Rows[R], tokenizers: Iterable[Tokenizer], strict: bool = False) -> Renderable[R]:
    """The rows whose prompts go through the chat templates of all ``tokenizers``.

    Raises:
        InputError: none does; with ``strict``, one does not.
    """
    told: Counter[str] = Counter()
    readers = [tokenizer for tokenizer in tokenizers if tokenizer.can_refuse]

    def why_not(row: Any) -> str:
        for tokenizer in readers:
            text, reason = tokenizer.rendering(row.prompt)
            if reason:
                return reason
            system = tokenizer.settings.get("system")
            if system and as_messages(row.prompt)[0]["role"] == "system":
                done = {"fold": "folded into the user's", "drop": "left out"}[system]
                told[f"a system turn is {done}: the chat template of {tokenizer.source} has none"] += 1
            if thinks(text):
                told[f"a prompt ends within thoughts (<think>) that the chat template of {tokenizer.source} opens"] += 1
        return ""

    if not readers:
        return Renderable(rows, [])
    found = rows.where(why_not, strict)
    return Renderable(found, [f"in {n} rows {what}" for what, n in told.items()])
