"""Edits made elsewhere, taken as they are."""

from tokalign.artifacts.schemas import RecordedEdit
from tokalign.editors import Proposal


class RecordedEditor:
    """Passes on what the row already carries."""

    name = "recorded"

    def original(self, row: RecordedEdit) -> str:
        """The response as it was."""
        return row.original

    def edit(self, row: RecordedEdit) -> Proposal:
        """The recorded edit."""
        return Proposal(row.edited, row.categories, row.rationale)
