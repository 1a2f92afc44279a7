"""Edits made elsewhere, passed on unchanged."""

from tokalign.artifacts.schemas import RecordedEdit, Row
from tokalign.editors import Proposal, RowByRow


class RecordedEditor(RowByRow):
    """Returns the edit recorded in each row."""

    name = "recorded"
    only_count = True

    def reads(self, kind: str | None) -> tuple[type[Row], str]:
        """See :class:`tokalign.editors.Editor`."""
        return RecordedEdit, "edits"

    def original(self, row: RecordedEdit) -> str:
        """Return the response before the edit."""
        return row.original

    def edit(self, row: RecordedEdit) -> Proposal:
        """Return the recorded edit."""
        return Proposal(row.edited, row.categories, row.rationale)
