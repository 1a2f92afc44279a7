"""Skip rows whose prompts the chat templates of a command cannot render, before work begins."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from tokalign.artifacts.schemas import Row
from tokalign.data.conversation import as_messages
from tokalign.data.rows import Rows
from tokalign.models.chat_templates import ends_inside_thinking
from tokalign.models.tokenizer import Tokenizer

R = TypeVar("R", bound=Row)


class Renderable(NamedTuple, Generic[R]):
    """The rows that can be rendered, and notes on how their prompts are rendered."""

    rows: Rows[R]
    notes: list[str]


def renderable(rows: Rows[R], tokenizers: Iterable[Tokenizer], strict: bool = False) -> Renderable[R]:
    """Keep the rows whose prompts the chat templates of all ``tokenizers`` can render; skip and count the others.

    Raises:
        InputError: no row is left, or, with ``strict``, a row cannot be rendered.
    """
    notes: Counter[str] = Counter()
    refusing = [tokenizer for tokenizer in tokenizers if tokenizer.can_refuse]

    def why_not(row: Any) -> str:
        for tokenizer in refusing:
            text, reason = tokenizer.rendering(row.prompt)
            if reason:
                return reason
            system = tokenizer.settings.get("system")
            if system and as_messages(row.prompt)[0]["role"] == "system":
                handling = {"fold": "folded into the user's", "drop": "left out"}[system]
                notes[f"a system turn is {handling}: the chat template of {tokenizer.source} has none"] += 1
            if ends_inside_thinking(text):
                opened_by = f"the chat template of {tokenizer.source}"
                notes[f"a prompt ends within thoughts (<think>) that {opened_by} opens"] += 1
        return ""

    if not refusing:
        return Renderable(rows, [])
    found = rows.where(why_not, strict)
    return Renderable(found, [f"in {n} rows {note}" for note, n in notes.items()])
