"""Claude as the editor: one request per row, and a second one if a gate rejects the edit."""

from collections.abc import Generator
from importlib import resources
from pathlib import Path
from typing import Any

from tokalign.artifacts.result import Estimate
from tokalign.artifacts.schemas import Edit, Preference, Row
from tokalign.claude import messages
from tokalign.claude.client import Claude, Request
from tokalign.claude.delimiters import ABOUT, fence, turns
from tokalign.claude.estimate import estimate
from tokalign.claude.journal import Answer
from tokalign.claude.retry import Failed
from tokalign.claude.service import iterate, run_async, run_calls
from tokalign.config.methods import EditOptions
from tokalign.data.dataset import Rows, file_lineage
from tokalign.editors import Proposal, Verdict
from tokalign.editors.claude_response import SCHEMA, Reading, read
from tokalign.runtime.disk import hash_json
from tokalign.runtime.progress import Progress

PROMPT = "edit-1"
"""Version of the built-in prompt, and the name of its file."""
_TASK = "Edit the response between the last pair of tags."


class ClaudeEditor:
    """Edits with Claude.

    Args:
        options: model, prompt and gate options.
        folder: folder of the journal.

    Raises:
        UsageError: no model is given.
        InputError: the prompt file cannot be read.
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
        """Return the user's prompt file, if there is one."""
        return {} if self.options.prompt is None else {"prompt": file_lineage(self.options.prompt)}

    def estimate(self, rows: Rows[Preference]) -> Estimate:
        """Estimate the cost of the edits without requesting any."""
        k = self.options
        return run_async(
            estimate(rows, lambda row: (self.request(row), row.rejected), self.folder, self.model, k, k.re_ask)
        )

    def edits(self, rows: Rows[Preference], start: int, bar: Progress) -> Generator[list[Edit]]:
        """See :class:`tokalign.editors.Editor`. Yields one row at a time, so that each paid edit is saved at once."""
        k = self.options
        calls = run_calls(rows, self.edit, start, self.folder, self.model, k, bar.say, self.usage.update)
        for edit in iterate(calls):
            yield [edit]
            bar.advance(1, USD=self.usage["usd"])

    async def edit(self, row: Preference, claude: Claude) -> Edit:
        """Request the edit of a row, a second time if it is rejected, and return it with its status."""
        request = self.request(row)
        first = await claude.ask(request)
        if isinstance(first, Failed):
            return self._row(row, Proposal("", []), Verdict("failed", first.why, None), [])
        answers, reading = [first], self._read(first, row)
        if self.options.re_ask and (reading.complaint or reading.truncated):
            second = await claude.ask(self.second_request(request, first, reading))
            if isinstance(second, Answer):
                answers, reading = [*answers, second], self._read(second, row)
            elif second.transient:  # the next run retries the row
                return self._row(row, Proposal("", []), Verdict("failed", second.why, None), answers)
        return self._row(row, reading.proposal, reading.verdict, answers)

    def request(self, row: Preference) -> Request:
        """Build the request for a row."""
        guidance = [("preferred", row.chosen)] if self.options.show_chosen else []
        data = fence([*turns(row.prompt), *guidance, ("response", row.rejected)])
        return messages.request(self.options, self._system, f"{data}\n\n{_TASK}", SCHEMA)

    @staticmethod
    def second_request(request: Request, answer: Answer, reading: Reading) -> Request:
        """Build the second request: with the complaint, or with twice ``max_tokens`` after a truncated answer."""
        if reading.truncated:
            return {**request, "max_tokens": 2 * request["max_tokens"]}
        first = messages.text_of(answer.message).strip() or "(nothing)"
        turns = [{"role": "assistant", "content": first}, {"role": "user", "content": reading.complaint}]
        return {**request, "messages": [*request["messages"], *turns]}

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
    """Return the system prompt, with the explanation of the delimiters, and its version.

    Args:
        file: the user's prompt; None: the built-in one.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    if file is None:
        text = resources.files(__package__).joinpath("prompts", f"{PROMPT}.md").read_text(encoding="utf-8")
        version = PROMPT
    else:
        text = messages.read_text(file, "write instructions for editing into it")
        version = f"{file.name} {hash_json(text)[:12]}"
    return f"{text.strip()}\n\n{ABOUT}", version
