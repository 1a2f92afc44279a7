"""The playground's rule editor."""

from tokalign.editors import Proposal
from tokalign.errors import InputError
from tokalign.playground import rules
from tokalign.schemas import Preference


class RulesEditor:
    """Edits by the playground's lexicon; it knows nothing of other texts."""

    name = "rules"

    def original(self, row: Preference) -> str:
        """The rejected response."""
        return row.rejected

    def edit(self, row: Preference) -> Proposal:
        """Mend every flaw that the rules find.

        Raises:
            InputError: the prompt is a conversation.
        """
        if not isinstance(row.prompt, str):
            raise InputError(f"row {row.id!r}: the rule editor takes plain prompts", field="prompt")
        changes = rules.find_changes(row.prompt, row.rejected)
        return Proposal(rules.apply_changes(row.rejected, changes), [c.kind for c in changes])
