"""The playground's rule editor."""

from tokalign.artifacts.schemas import Preference
from tokalign.data.conversation import last_turn
from tokalign.editors import Proposal, RowByRow
from tokalign.errors import InputError
from tokalign.playground import oracle, rules


def knows(row: Preference) -> bool:
    """Whether a row is the playground's."""
    try:
        oracle.read_prompt(last_turn(row.prompt))
    except InputError:
        return False
    return True


class RulesEditor(RowByRow):
    """Edits by the playground's lexicon; it knows nothing of other texts."""

    name = "rules"

    def edit(self, row: Preference) -> Proposal:
        """Mend every flaw that the rules find."""
        changes = rules.find_changes(last_turn(row.prompt), row.rejected)
        return Proposal(rules.apply_changes(row.rejected, changes), [c.kind for c in changes])
