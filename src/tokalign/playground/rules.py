"""Rules of the rule editor: minimal edits that fix a playground response, found with regular expressions.

A rule finds a flawed span and changes only that span. The rules share no code with the oracle
(:mod:`tokalign.playground.oracle`), which judges the result.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tokalign.playground.lexicon import DEVICES, EXTRA, LOOSE, PLACES, SAFE, TERMS, TOPICS, UNSAFE


def _any(words: object) -> str:
    return "|".join(map(re.escape, words))  # type: ignore[call-overload]


_UNSAFE = re.compile(rf"To ({_any(SAFE)}), ({_any(UNSAFE)})(?=\.)")
_BARE_TERM = re.compile(rf"\b({_any(TERMS)})(?=\.)")
_DEVICE_REQUEST = re.compile(rf"Describe ({_any(TOPICS)}) with a (\w+)")
_NOTE = re.compile(r"(\w+) keeps the (\w+) in the (\w+)\.")
_EXTRA = re.compile(rf"(?<=\.) (?:{_any(EXTRA)})(?=(?: (?:{_any(EXTRA)}))*$)|(?:{_any(EXTRA)})(?: |$)")


def _loose(kind: str, **parts: object) -> re.Pattern[str]:
    """Pattern for the loose wording of a kind, without its full stop; ``parts``: patterns of its fields."""
    pattern = re.escape(LOOSE[kind].removesuffix(".")).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(pattern.format(**parts) + r"(?=\.)")


_LOOSE_SAFETY = _loose("safety", task=f"(?P<task>{_any(SAFE)})", said=f"(?:{_any(UNSAFE)})")
_LOOSE_TERM = _loose("term", said=f"(?P<term>{_any(TERMS)})")
_LOOSE_DEVICE = "(?:" + "|".join(_any(phrases) for phrases in DEVICES.values()) + ")"


class Change(NamedTuple):
    """Replace characters ``[start, end)`` of the response with ``text``, because of a flaw of ``kind``."""

    start: int
    end: int
    text: str
    kind: str


def find_changes(prompt: str, response: str) -> list[Change]:
    """Find the changes that fix a response, in order of position and without overlaps."""
    changes = sorted(_changes(prompt, response))
    kept: list[Change] = []
    for change in changes:
        if not kept or change.start >= kept[-1].end:
            kept.append(change)
    return kept


def apply_changes(response: str, changes: list[Change]) -> str:
    """Apply changes from :func:`find_changes` to the response."""
    for start, end, text, _ in reversed(changes):
        response = response[:start] + text + response[end:]
    return response


def _changes(prompt: str, response: str) -> Iterator[Change]:
    for m in _UNSAFE.finditer(response):
        yield Change(*m.span(2), SAFE[m[1]], "safety")
    for m in _BARE_TERM.finditer(response):
        yield Change(m.end(), m.end(), f", which means {TERMS[m[1]][1]}", "term")
    for m in _LOOSE_SAFETY.finditer(response):
        yield Change(*m.span(), f"To {m['task']}, {SAFE[m['task']]}", "safety")
    for m in _LOOSE_TERM.finditer(response):
        lead, gloss = TERMS[m["term"]]
        yield Change(*m.span(), f"{lead} {m['term']}, which means {gloss}", "term")
    for topic, device in _DEVICE_REQUEST.findall(prompt):
        right = DEVICES.get(device, ())
        wrong = [p for phrases in DEVICES.values() for p in phrases if p not in right]
        for m in re.finditer(rf"{topic.capitalize()} ({_any(wrong)})(?=\.)", response):
            # Any phrase of the right device will do; the choice depends only on the text, so it is reproducible.
            yield Change(*m.span(1), right[len(topic + m[1]) % len(right)], "device")
        for m in _loose("device", topic=topic, said=_LOOSE_DEVICE).finditer(response):
            yield Change(*m.span(), f"{topic.capitalize()} {right[len(m[0]) % len(right)]}", "device")
    for name, thing, place in _NOTE.findall(prompt):
        wrong_place = _any(p for p in PLACES if p != place)
        for m in re.finditer(rf"{name} keeps the {thing} in the ({wrong_place})\b", response):
            yield Change(*m.span(1), place, "fact")
        for m in _loose("fact", name=name, thing=thing, said=f"(?:{_any(PLACES)})").finditer(response):
            yield Change(*m.span(), f"{name} keeps the {thing} in the {place}", "fact")
    for m in _EXTRA.finditer(response):
        yield Change(*m.span(), "", "extra")
