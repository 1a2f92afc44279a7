"""The playground's rule editor."""

from tokalign.editors import Proposal
from tokalign.playground import rules
from tokalign.schemas import Preference


class RulesEditor:
    """Edits by the playground's lexicon; it knows nothing of other texts."""

    name = "rules"

    def original(self, row: Preference) -> str:
        """The rejected response."""
        return row.rejected

    def edit(self, row: Preference) -> Proposal:
        """Mend every flaw that the rules find; of a conversation, the last turn is what was asked."""
        asked = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
        changes = rules.find_changes(asked, row.rejected)
        return Proposal(rules.apply_changes(row.rejected, changes), [c.kind for c in changes])
