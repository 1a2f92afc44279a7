"""Parsing and checking of Claude's answers as edits, and the complaint to send if an edit is rejected."""

import re
from typing import Any, NamedTuple

from tokalign.artifacts.schemas import CATEGORIES
from tokalign.claude import messages
from tokalign.editors import Proposal, Verdict, gate

_FIELDS = ("rationale", "categories", "edited_response")
SCHEMA = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string"},
        "categories": {"type": "array", "items": {"type": "string", "enum": list(CATEGORIES)}},
        "edited_response": {"type": "string"},
    },
    "required": list(_FIELDS),
    "additionalProperties": False,
}
"""JSON schema of the answer. The rationale comes first, so that the model states it before it edits."""

_SMALL = 0.8
"""An edit that keeps at least this share of the words is accepted even if it equals the preferred response."""
_PREAMBLE = re.compile(
    r"(?:sure|certainly|of course|okay|ok|absolutely)?[,.!:]?\s*"
    r"(?:here(?:'s|’s| is| are)\s+(?:the|your|my|an?)\s+(?:\w+\s+){0,3}(?:edit|edited|revision|revised|corrected|"
    r"improved|response|version|answer)\b"
    r"|(?:the\s+)?(?:edited|revised|corrected|improved)\s+(?:response|version|answer|text)\s*:"
    r"|i(?:'ve|’ve| have)?\s+(?:edited|revised|corrected|changed)\s+the\s+response\b)",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?(?:response|preferred|user|assistant|system|other)-[0-9a-f]{12}>")


class Reading(NamedTuple):
    """A parsed and checked answer."""

    proposal: Proposal
    verdict: Verdict
    complaint: str = ""
    """Message to the model for a second request; empty if there should be none."""
    truncated: bool = False
    """Whether the answer reached ``max_tokens``; a second request needs more."""


_COMPLAINTS = {
    "unparsed": "That is not the JSON object that was asked for. Answer with it alone.",
    "empty": "The edited response is empty. Keep what can stand of the response, and mend the rest.",
    "changed without a reason": (
        "You named nothing that is wrong, but changed the text. Name what is wrong and mend only that; or, if nothing "
        "is wrong, say none and give the response back exactly as it was."
    ),
    "unchanged": "You named what is wrong, but changed nothing. Mend it; or, if nothing is wrong, say none.",
    "over-edited": (
        "That keeps only {kept:.0%} of the words of the response. Start again from the response as it was, change "
        "only what has to change, and keep all other words exactly as they are."
    ),
    "preamble": "The edited response must hold the response and nothing else: no introduction, no remark, no tags.",
    "copy of chosen": (
        "That is the preferred response, not an edit. Start again from the response to edit and change as little of "
        "it as possible."
    ),
}


def read(message: dict[str, Any], original: str, chosen: str | None, min_similarity: float) -> Reading:
    """Parse an untrusted answer as an edit of ``original`` and check it.

    Args:
        message: message of the API.
        original: response before the edit.
        chosen: preferred response, which must not be copied.
        min_similarity: smallest share of words that an edit must keep.
    """
    if problem := messages.unusable(message):
        return _rejected(problem)._replace(truncated=messages.is_truncated(message))
    parsed = _parse(message)
    if parsed is None:
        return _rejected("unparsed")._replace(complaint=_COMPLAINTS["unparsed"])
    proposal = parsed._replace(edited=_keep_margins(original, parsed.edited))
    verdict = _check(proposal, original, chosen, min_similarity)
    complaint = _COMPLAINTS.get(verdict.reason, "").format(kept=verdict.similarity or 0.0)
    return Reading(proposal, verdict, complaint)


def _check(proposal: Proposal, original: str, chosen: str | None, min_similarity: float) -> Verdict:
    verdict = gate(original, proposal.edited, min_similarity, only_count=False)
    if verdict.status == "unchanged" and proposal.categories:
        return verdict._replace(status="rejected", reason="unchanged")
    if verdict.status != "edited":
        return verdict
    if _has_preamble(proposal.edited, original):
        return verdict._replace(status="rejected", reason="preamble")
    copied = chosen is not None and proposal.edited.strip() == chosen.strip()
    if copied and (verdict.similarity or 0.0) < _SMALL:
        return verdict._replace(status="rejected", reason="copy of chosen")
    if not proposal.categories:
        return verdict._replace(status="rejected", reason="changed without a reason")
    return verdict


def _parse(message: dict[str, Any]) -> Proposal | None:
    values = messages.fields(message, _FIELDS)
    if values is None:
        return None
    rationale, categories, edited = (values[name] for name in _FIELDS)
    if not isinstance(rationale, str) or not isinstance(edited, str) or not isinstance(categories, list):
        return None
    if any(c not in CATEGORIES for c in categories):
        return None
    try:
        edited.encode()
    except UnicodeEncodeError:  # lone surrogate
        return None
    named = [c for c in dict.fromkeys(categories) if c != "none"]
    return Proposal(edited, named, messages.one_line(rationale))


def _keep_margins(original: str, edited: str) -> str:
    """Give the edit the leading and trailing white space of the original, which models often drop."""
    middle = edited.strip()
    if not middle:
        return ""
    before = original[: len(original) - len(original.lstrip())]
    return before + middle + original[len(original.rstrip()) :]


def _has_preamble(edited: str, original: str) -> bool:
    """Whether the edit, unlike the original, begins with an introduction or contains our tags."""
    introduced = _PREAMBLE.match(edited.lstrip()) and not _PREAMBLE.match(original.lstrip())
    return bool(introduced) or not set(_TAG.findall(edited)) <= set(_TAG.findall(original))


def _rejected(reason: str) -> Reading:
    return Reading(Proposal("", []), Verdict("rejected", reason, None))
