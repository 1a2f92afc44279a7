"""Claude as the editor: one request a row, and one more where a gate can say what was wrong."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib import resources
from pathlib import Path
from typing import Any

from tokalign.artifacts import hash_json
from tokalign.claude.client import Claude, Failed, Request
from tokalign.claude.estimate import estimate
from tokalign.claude.fences import ABOUT, fence
from tokalign.claude.journal import Answer
from tokalign.claude.prices import Estimate
from tokalign.claude.service import service, spent
from tokalign.config import EditConfig
from tokalign.editors import Proposal, Verdict
from tokalign.editors.answers import SCHEMA, Reading, read, text_of
from tokalign.errors import InputError, UsageError
from tokalign.schemas import Edit, Preference
from tokalign.sources import Rows

PROMPT = "edit-1"
"""The version of our own prompt, and the name of its file."""
_ROLES = ("system", "user", "assistant")
_TASK = "Edit the response between the last pair of tags."


class ClaudeEditor:
    """Edits by asking.

    Args:
        knobs: the model, what it is shown, the gates.

    Raises:
        UsageError: no model is named.
        InputError: the prompt cannot be read.
    """

    name = "claude"

    def __init__(self, knobs: EditConfig) -> None:
        self.knobs = knobs
        self.model = model_of(knobs)
        self._system, self.version = prompt(knobs.prompt)

    async def edit(self, row: Preference, claude: Claude) -> Edit:
        """The row with its edit, whatever became of it."""
        request = self.request(row)
        found = await claude.ask(request)
        if isinstance(found, Failed):
            return self._row(row, Proposal("", []), Verdict("failed", found.why, None), [])
        answers, reading = [found], self._read(found, row)
        if self.knobs.re_ask and (reading.complaint or reading.more_room):
            found = await claude.ask(self.again(request, found, reading))
            if isinstance(found, Answer):
                answers, reading = [*answers, found], self._read(found, row)
        return self._row(row, reading.proposal, reading.verdict, answers)

    def request(self, row: Preference) -> Request:
        """What is asked for a row: what never changes first, so that it can be cached."""
        turns = (
            [("user", row.prompt)] if isinstance(row.prompt, str) else [(t["role"], t["content"]) for t in row.prompt]
        )
        parts = [(role if role in _ROLES else "other", said) for role, said in turns]
        if self.knobs.show_chosen:
            parts.append(("preferred", row.chosen))
        data, _ = fence([*parts, ("response", row.rejected)])
        output: dict[str, Any] = {"format": {"type": "json_schema", "schema": SCHEMA}}
        if self.knobs.effort is not None:
            output["effort"] = self.knobs.effort
        return {
            "model": self.model,
            "max_tokens": self.knobs.max_tokens,
            "system": [{"type": "text", "text": self._system, "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": f"{data}\n\n{_TASK}"}],
            "output_config": output,
        }

    @staticmethod
    def again(request: Request, answer: Answer, reading: Reading) -> Request:
        """A second try: with what was wrong said, or with twice the room."""
        if reading.more_room:
            return {**request, "max_tokens": 2 * request["max_tokens"]}
        said = text_of(answer.message).strip() or "(nothing)"
        turns = [{"role": "assistant", "content": said}, {"role": "user", "content": reading.complaint}]
        return {**request, "messages": [*request["messages"], *turns]}

    def _read(self, answer: Answer, row: Preference) -> Reading:
        return read(answer.message, row.rejected, row.chosen, self.knobs.min_similarity)

    def _row(self, row: Preference, proposal: Proposal, verdict: Verdict, answers: list[Answer]) -> Edit:
        models = [m for a in answers if isinstance(m := a.message.get("model"), str)]
        return Edit.model_validate(
            {
                "id": row.id,
                "prompt": row.prompt,
                "original": row.rejected,
                "edited": proposal.edited,
                "chosen": row.chosen,
                "editor": self.name,
                "model": models[-1] if models else self.model,
                "prompt_version": self.version,
                "status": verdict.status,
                "reason": verdict.reason,
                "categories": proposal.categories,
                "rationale": proposal.rationale,
                "similarity": verdict.similarity,
                "attempts": len(answers),
                "usage": usage_of(answers) if answers else None,
            }
        )


def model_of(knobs: EditConfig) -> str:
    """The model to ask.

    Raises:
        UsageError: none is named.
    """
    if not knobs.model:
        raise UsageError("--editor claude needs a model", remedy="name one with --model, e.g. claude-sonnet-5-5")
    return knobs.model


def prompt(file: Path | None) -> tuple[str, str]:
    """The system prompt, ours or the user's, with what it must say of fences; and its version.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if file is None:
        text = resources.files(__package__).joinpath("prompts", f"{PROMPT}.md").read_text(encoding="utf-8")
        version = PROMPT
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"not a readable prompt: {e}", where=str(file), remedy="a text file in UTF-8") from e
        if not text.strip():
            raise InputError("the prompt is empty", where=str(file), remedy="say how to edit")
        version = f"{file.name} {hash_json(text)[:12]}"
    return f"{text.strip()}\n\n{ABOUT}", version


def usage_of(answers: list[Answer]) -> dict[str, Any]:
    """Tokens by kind and US dollars of a row's answers."""
    total: Counter[str] = Counter()
    for answer in answers:
        total.update({k: n for k, n in answer.message["usage"].items() if k.endswith("_tokens") and isinstance(n, int)})
    return {**total, "usd": round(sum(a.cost for a in answers), 8)}


async def edits(
    rows: Rows[Preference],
    start: int,
    knobs: EditConfig,
    say: Callable[[str], None],
    tell: Callable[[dict[str, Any]], None],
) -> AsyncGenerator[Edit]:
    """The rows from ``start`` with their edits, in order. ``tell`` hears before each what is spent so far."""
    editor = ClaudeEditor(knobs)
    async with (
        service(knobs.out, editor.model, knobs, say) as claude,
        aclosing(claude.each(rows, lambda row: editor.edit(row, claude), start)) as found,
    ):
        async for _, edit in found:
            tell(spent(claude.journal))
            yield edit


async def estimated(rows: Rows[Preference], knobs: EditConfig) -> Estimate:
    """What the edits may cost."""
    editor = ClaudeEditor(knobs)
    return await estimate(list(rows), lambda row: (editor.request(row), row.rejected), knobs.out, editor.model, knobs)
