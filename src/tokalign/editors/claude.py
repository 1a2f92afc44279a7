"""Claude as the editor: one request a row, and one more where a gate can say what was wrong."""

from collections.abc import Generator
from importlib import resources
from pathlib import Path
from typing import Any

from tokalign.artifacts.schemas import Edit, Preference, Row
from tokalign.claude import messages
from tokalign.claude.client import Claude, Request
from tokalign.claude.delimiters import ABOUT, fence, turns
from tokalign.claude.estimate import estimate
from tokalign.claude.journal import Answer
from tokalign.claude.prices import Estimate
from tokalign.claude.retry import Failed
from tokalign.claude.service import in_turn, one, worked
from tokalign.config.methods import EditOptions
from tokalign.data.dataset import Rows, file_lineage
from tokalign.editors import Proposal, Verdict
from tokalign.editors.claude_response import SCHEMA, Reading, read
from tokalign.runtime.disk import hash_json
from tokalign.runtime.progress import Progress

PROMPT = "edit-1"
"""The version of our own prompt, and the name of its file."""
_TASK = "Edit the response between the last pair of tags."


class ClaudeEditor:
    """Edits by asking.

    Args:
        options: the model, what it is shown, the gates.
        folder: of the journal.

    Raises:
        UsageError: no model is named.
        InputError: the prompt cannot be read.
    """

    name = "claude"
    paid = True
    begins_again = False

    def __init__(self, options: EditOptions, folder: Path) -> None:
        self.options, self.folder, self.usage = options, folder, dict[str, Any]()
        self.model = messages.model_of(options)
        self._system, self.version = prompt(options.prompt)

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """See :class:`tokalign.editors.Editor`."""
        return Preference, "preferences"

    def inputs(self) -> dict[str, dict[str, Any]]:
        """The user's prompt, if there is one."""
        return {} if self.options.prompt is None else {"prompt": file_lineage(self.options.prompt)}

    def estimate(self, rows: Rows[Preference]) -> Estimate:
        """What the edits may cost; nothing is asked for."""
        k = self.options
        asked = estimate(rows, lambda row: (self.request(row), row.rejected), self.folder, self.model, k, k.re_ask)
        return one(asked)

    def edits(self, rows: Rows[Preference], start: int, bar: Progress) -> Generator[list[Edit]]:
        """See :class:`tokalign.editors.Editor`: row by row, since each was paid for."""
        k = self.options
        for edit in in_turn(worked(rows, self.edit, start, self.folder, self.model, k, bar.say, self.usage.update)):
            yield [edit]
            bar.advance(1, USD=self.usage["usd"])

    async def edit(self, row: Preference, claude: Claude) -> Edit:
        """The row with its edit, whatever became of it."""
        request = self.request(row)
        found = await claude.ask(request)
        if isinstance(found, Failed):
            return self._row(row, Proposal("", []), Verdict("failed", found.why, None), [])
        answers, reading = [found], self._read(found, row)
        if self.options.re_ask and (reading.complaint or reading.more_room):
            second = await claude.ask(self.again(request, found, reading))
            if isinstance(second, Answer):
                answers, reading = [*answers, second], self._read(second, row)
            elif second.passing:  # the same command tries it again
                return self._row(row, Proposal("", []), Verdict("failed", second.why, None), answers)
        return self._row(row, reading.proposal, reading.verdict, answers)

    def request(self, row: Preference) -> Request:
        """What is asked for a row."""
        guidance = [("preferred", row.chosen)] if self.options.show_chosen else []
        data = fence([*turns(row.prompt), *guidance, ("response", row.rejected)])
        return messages.request(self.options, self._system, f"{data}\n\n{_TASK}", SCHEMA)

    @staticmethod
    def again(request: Request, answer: Answer, reading: Reading) -> Request:
        """A second try: with what was wrong said, or with twice the room."""
        if reading.more_room:
            return {**request, "max_tokens": 2 * request["max_tokens"]}
        said = messages.text_of(answer.message).strip() or "(nothing)"
        more = [{"role": "assistant", "content": said}, {"role": "user", "content": reading.complaint}]
        return {**request, "messages": [*request["messages"], *more]}

    def _read(self, answer: Answer, row: Preference) -> Reading:
        return read(answer.message, row.rejected, row.chosen, self.options.min_similarity)

    def _row(self, row: Preference, proposal: Proposal, verdict: Verdict, answers: list[Answer]) -> Edit:
        return Edit.model_validate(
            {
                "id": row.id,
                "prompt": row.prompt,
                "original": row.rejected,
                "edited": proposal.edited,
                "chosen": row.chosen,
                "editor": self.name,
                "model": messages.answered_by(answers) or self.model,
                "prompt_version": self.version,
                "status": verdict.status,
                "reason": verdict.reason,
                "categories": proposal.categories,
                "rationale": proposal.rationale,
                "similarity": verdict.similarity,
                "attempts": len(answers),
                "usage": messages.usage_of(answers) if answers else None,
            }
        )


def prompt(file: Path | None) -> tuple[str, str]:
    """The system prompt, ours or the user's, with what it must say of fences; and its version.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if file is None:
        text = resources.files(__package__).joinpath("prompts", f"{PROMPT}.md").read_text(encoding="utf-8")
        version = PROMPT
    else:
        text = messages.read_text(file, "say how to edit")
        version = f"{file.name} {hash_json(text)[:12]}"
    return f"{text.strip()}\n\n{ABOUT}", version
