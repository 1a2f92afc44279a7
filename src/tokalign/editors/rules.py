"""The playground's rule editor."""

from tokalign.artifacts.schemas import Preference
from tokalign.editors import Proposal, RowByRow
from tokalign.errors import InputError
from tokalign.playground import oracle, rules


def knows(row: Preference) -> bool:
    """Whether a row is the playground's."""
    try:
        oracle.read_prompt(_asked(row))
    except InputError:
        return False
    return True


def _asked(row: Preference) -> str:
    """Of a conversation, the last turn is what was asked."""
    return row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]


class RulesEditor(RowByRow):
    """Edits by the playground's lexicon; it knows nothing of other texts."""

    name = "rules"

    def edit(self, row: Preference) -> Proposal:
        """Mend every flaw that the rules find."""
        changes = rules.find_changes(_asked(row), row.rejected)
        return Proposal(rules.apply_changes(row.rejected, changes), [c.kind for c in changes])
