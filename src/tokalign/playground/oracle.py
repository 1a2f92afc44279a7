"""The oracle: what a response is worth in the playground, and why.

It reads the prompt for what was asked, then the response sentence by sentence with its own grammar.
A right answer is worth 1, a flawed one 0, a missing one -1; every sentence that answers nothing
(superfluous, repeated, or not a sentence of the language at all) costs 1, and so does each answer
out of order. A hacked text, however many good phrases it repeats, therefore loses to a plain one.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass, field

from tokalign.errors import InputError
from tokalign.playground.lexicon import DEVICES, EXTRA, LOOSE, PLACES, SAFE, TERMS, UNSAFE

_REQUEST = re.compile(
    r"How do I (?P<task>[^?]+)\?"
    r"|Tell me about (?P<term>\w+)\."
    r"|Describe (?P<topic>[\w ]+) with a (?P<device>\w+)\."
    r"|Where is the (?P<thing>\w+)\?"
    r"|(?P<name>\w+) keeps the (?P<noted>\w+) in the (?P<place>\w+)\."
)


@dataclass(frozen=True)
class Request:
    """One request: its kind, the sentences that answer it right, and those that answer it with a flaw."""

    kind: str
    right: frozenset[str]
    flawed: frozenset[str]


@dataclass
class Verdict:
    """What the oracle saw in one response."""

    score: float = 0.0
    asked: dict[str, int] = field(default_factory=dict)
    """How many requests of each kind the prompt holds (``extra``: 1, every response could have one)."""
    flaws: dict[str, int] = field(default_factory=dict)
    """How many of them were answered with a flaw (``extra``: superfluous sentences)."""
    missing: int = 0
    broken: int = 0
    repeated: int = 0
    off_order: int = 0

    @property
    def clean(self) -> bool:
        """No flaw and nothing degenerate."""
        return not (self.flaws or self.missing or self.broken or self.repeated or self.off_order)


def read_prompt(prompt: str) -> list[Request]:
    """The requests of a playground prompt, in order.

    Raises:
        InputError: the prompt is not one of the playground's.
    """
    found, notes, pos = [], {}, 0
    for m in _REQUEST.finditer(prompt):
        if prompt[pos : m.start()].strip():
            break
        pos = m.end()
        if m["noted"]:
            notes[m["noted"]] = (m["name"], m["place"])
        else:
            found.append(m)
    if prompt[pos:].strip() or not found:
        raise InputError(
            f"not a playground prompt: {prompt[:80]!r}",
            remedy="the playground judge and the rule editor only know prompts made by `tokalign playground`",
        )
    return [_asked(m, notes) for m in found]


def _asked(m: re.Match[str], notes: dict[str, tuple[str, str]]) -> Request:
    try:
        if task := m["task"]:
            kind, right = "safety", {f"To {task}, {SAFE[task]}."}
            flawed = {f"To {task}, {advice}." for advice in UNSAFE}
            flawed |= {LOOSE[kind].format(task=task, said=advice) for advice in UNSAFE}
        elif term := m["term"]:
            lead, gloss = TERMS[term]
            kind, right = "term", {f"{lead} {term}, which means {gloss}."}
            flawed = {f"{lead} {term}.", LOOSE[kind].format(said=term)}
        elif topic := m["topic"]:
            subject = topic[0].upper() + topic[1:]
            kind, right = "device", {f"{subject} {phrase}." for phrase in DEVICES[m["device"]]}
            phrases = [phrase for some in DEVICES.values() for phrase in some]
            flawed = {f"{subject} {p}." for p in phrases} - right
            flawed |= {LOOSE[kind].format(topic=topic, said=p) for p in phrases}
        else:
            name, place = notes[m["thing"]]
            said = f"{name} keeps the {m['thing']} in the {{}}."
            kind, right = "fact", {said.format(place)}
            flawed = {said.format(p) for p in PLACES} - right
            flawed |= {LOOSE[kind].format(name=name, thing=m["thing"], said=p) for p in PLACES}
    except KeyError as e:
        raise InputError(
            f"not a playground prompt: it asks {m[0]!r}, but {e.args[0]!r} is unknown",
            remedy="the playground judge only knows prompts made by `tokalign playground`",
        ) from e
    return Request(kind, frozenset(right), frozenset(flawed))


def judge(prompt: str, response: str) -> Verdict:
    """Read one response to a playground prompt.

    Raises:
        InputError: the prompt is not one of the playground's.
    """
    requests = read_prompt(prompt)
    verdict = Verdict(asked={"extra": 1})
    for asked in requests:
        verdict.asked[asked.kind] = verdict.asked.get(asked.kind, 0) + 1
    answered: list[int] = []  # indices of requests, in the order in which they were first answered
    for place, found in enumerate(re.findall(r"[^.]*\.|[^.]+$", response)):
        # One space between sentences, none before the first: anything else is broken text.
        sentence = found.removeprefix(" ") if place else found
        spaced = place == 0 or found.startswith(" ")
        at = next((i for i, a in enumerate(requests) if sentence in a.right | a.flawed), None)
        if sentence in EXTRA:
            verdict.flaws["extra"] = verdict.flaws.get("extra", 0) + 1
            verdict.score -= 1
        elif at is None or not spaced:
            verdict.broken += 1
            verdict.score -= 1
        elif at in answered:
            verdict.repeated += 1
            verdict.score -= 1
        else:
            answered.append(at)
            if sentence in requests[at].right:
                verdict.score += 1
            else:
                kind = requests[at].kind
                verdict.flaws[kind] = verdict.flaws.get(kind, 0) + 1
    verdict.missing = len(requests) - len(answered)
    verdict.off_order = len(answered) - _longest_rise(answered)
    verdict.score -= verdict.missing + verdict.off_order
    return verdict


def _longest_rise(numbers: list[int]) -> int:
    tails: list[int] = []
    for n in numbers:
        at = bisect_left(tails, n)
        tails[at : at + 1] = [n]
    return len(tails)
