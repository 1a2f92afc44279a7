"""Edits made elsewhere, taken as they are."""

from tokalign.artifacts.schemas import RecordedEdit, Row
from tokalign.editors import Proposal, RowByRow


class RecordedEditor(RowByRow):
    """Passes on what the row already carries."""

    name = "recorded"
    only_count = True

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """See :class:`tokalign.editors.Editor`."""
        return RecordedEdit, "edits"

    def original(self, row: RecordedEdit) -> str:
        """The response as it was."""
        return row.original

    def edit(self, row: RecordedEdit) -> Proposal:
        """The recorded edit."""
        return Proposal(row.edited, row.categories, row.rationale)
