"""The playground's rule editor."""

from tokalign.artifacts.schemas import Preference
from tokalign.data.conversation import last_turn
from tokalign.editors import Proposal, RowByRow
from tokalign.errors import InputError
from tokalign.playground import oracle, rules


def knows(row: Preference) -> bool:
    """Whether a row has a prompt of the playground."""
    try:
        oracle.read_prompt(last_turn(row.prompt))
    except InputError:
        return False
    return True


class RulesEditor(RowByRow):
    """Edits with the playground's lexicon; works on the playground's texts only."""

    name = "rules"

    def edit(self, row: Preference) -> Proposal:
        """Fix every flaw that the rules find."""
        changes = rules.find_changes(last_turn(row.prompt), row.rejected)
        return Proposal(rules.apply_changes(row.rejected, changes), [c.kind for c in changes])
