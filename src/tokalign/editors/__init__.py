"""Who edits. One small file an editor; all follow :class:`Editor`, and all edits pass :func:`gate`."""

from typing import Any, NamedTuple, Protocol

from tokalign.core import diff


class Proposal(NamedTuple):
    """What an editor makes of a response."""

    edited: str
    categories: list[str]
    """What was wrong, one entry a change, in order of place."""
    rationale: str = ""


class Editor(Protocol):
    """Turns the less preferred response of a row into the better one, changing as little as possible."""

    name: str

    def original(self, row: Any) -> str:
        """The response to edit."""

    def edit(self, row: Any) -> Proposal:
        """The edit."""


class Verdict(NamedTuple):
    """What the gates say of an edit: ``edits/1``'s status, reason and similarity."""

    status: str
    reason: str
    similarity: float | None
    """None where there is no edit."""


def gate(original: str, edited: str, min_similarity: float, *, only_count: bool) -> Verdict:
    """Check one edit. ``only_count``: an edit that is too large is accepted, with the reason noted."""
    exact = diff.similarity(original, edited)
    kept = round(exact, 4)
    if not edited.strip():
        return Verdict("rejected", "empty", kept)
    if edited == original:
        return Verdict("unchanged", "", kept)
    if exact < min_similarity:
        return Verdict("edited" if only_count else "rejected", "over-edited", kept)
    return Verdict("edited", "", kept)
