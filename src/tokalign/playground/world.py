"""Generates the prompts and responses of the playground, deterministically from a seed.

A prompt has two to four requests of different kinds. A good response answers each request in one sentence, in order.
The flaws are those of the paper's figures 3-5 (one kind of flaw for each kind of request) and superfluous sentences:

======  ==================================  ====================  ================
kind    right answer                        flawed answer         its minimal edit
======  ==================================  ====================  ================
safety  safe advice for the task            unsafe advice         replace
term    an academic term and its meaning    the term alone        insert
device  the requested literary device       another device        replace
fact    the place that the prompt states    another place         replace
extra   (none)                              superfluous sentence  delete
======  ==================================  ====================  ================

The share ``loose`` of the flawed answers has a loose wording instead, whose edit rewrites the whole sentence.

Rows contain no answer key: the rule editor and the oracle only see the texts.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokalign.playground.lexicon import (
    DEVICES,
    EXTRA,
    LOOSE,
    NAMES,
    OBJECTS,
    PLACES,
    SAFE,
    TERMS,
    TOPICS,
    UNSAFE,
)  # fmt: skip

FLAW_RATE = 0.5
"""Probability that the answer to a request is flawed."""
EXTRA_RATE = 0.35
"""Probability that a response contains a superfluous sentence."""
REQUEST_KINDS = ("safety", "term", "device", "fact")


@dataclass(frozen=True)
class Request:
    """One request of a prompt, with functions that draw an answer."""

    note: str
    """Sentence of the prompt that states the fact the question asks for, or ""."""
    question: str
    right: Callable[[random.Random], str]
    flawed: Callable[[random.Random], str]
    loose: Callable[[random.Random], str]
    """Flawed, in a loose wording."""


def _safety(rng: random.Random) -> Request:
    task = rng.choice(list(SAFE))
    return Request(
        "",
        f"How do I {task}?",
        lambda _: f"To {task}, {SAFE[task]}.",
        lambda r: f"To {task}, {r.choice(UNSAFE)}.",
        lambda r: LOOSE["safety"].format(task=task, said=r.choice(UNSAFE)),
    )


def _term(rng: random.Random) -> Request:
    term = rng.choice(list(TERMS))
    lead, gloss = TERMS[term]
    return Request(
        "",
        f"Tell me about {term}.",
        lambda _: f"{lead} {term}, which means {gloss}.",
        lambda _: f"{lead} {term}.",
        lambda _: LOOSE["term"].format(said=term),
    )


def _device(rng: random.Random) -> Request:
    topic, device = rng.choice(TOPICS), rng.choice(list(DEVICES))
    others = [phrase for name, phrases in DEVICES.items() if name != device for phrase in phrases]
    subject = topic.capitalize()
    return Request(
        "",
        f"Describe {topic} with a {device}.",
        lambda r: f"{subject} {r.choice(DEVICES[device])}.",
        lambda r: f"{subject} {r.choice(others)}.",
        lambda r: LOOSE["device"].format(topic=topic, said=r.choice(others)),
    )


def _fact(rng: random.Random) -> Request:
    name, thing, place = rng.choice(NAMES), rng.choice(OBJECTS), rng.choice(PLACES)
    others = [p for p in PLACES if p != place]
    return Request(
        f"{name} keeps the {thing} in the {place}.",
        f"Where is the {thing}?",
        lambda _: f"{name} keeps the {thing} in the {place}.",
        lambda r: f"{name} keeps the {thing} in the {r.choice(others)}.",
        lambda r: LOOSE["fact"].format(name=name, thing=thing, said=r.choice(others)),
    )


_MAKERS = {"safety": _safety, "term": _term, "device": _device, "fact": _fact}


def make_requests(rng: random.Random) -> list[Request]:
    """Draw two to four requests of different kinds, in random order."""
    kinds = rng.sample(REQUEST_KINDS, rng.randint(2, 4))
    return [_MAKERS[kind](rng) for kind in kinds]


def prompt_text(requests: list[Request]) -> str:
    """Text of the prompt: all notes, then the questions in order."""
    return " ".join([r.note for r in requests if r.note] + [r.question for r in requests])


def respond(
    requests: list[Request],
    rng: random.Random,
    flaw_rate: float = FLAW_RATE,
    extra_rate: float = EXTRA_RATE,
    loose: float = 0.0,
) -> tuple[str, int]:
    """Draw a response.

    Args:
        requests: the requests of the prompt.
        rng: random generator.
        flaw_rate: probability that an answer is flawed.
        extra_rate: probability of a superfluous sentence.
        loose: probability that a flawed answer has a loose wording.

    Returns:
        The response and its number of flaws.
    """
    flaws = [rng.random() < flaw_rate for _ in requests]
    sentences = []
    for request, is_flawed in zip(requests, flaws, strict=True):
        answer = request.right if not is_flawed else request.loose if loose and rng.random() < loose else request.flawed
        sentences.append(answer(rng))
    extra = rng.random() < extra_rate
    if extra:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(EXTRA))
    return " ".join(sentences), sum(flaws) + extra


class World:
    """Draws rows of all kinds. A ``World`` never repeats a prompt, so its sets are disjoint.

    Args:
        seed: seed of all rows.
        loose: share of the flawed answers with a loose wording.
    """

    def __init__(self, seed: int, loose: float = 0.0) -> None:
        self._loose = loose
        self._rng = random.Random(f"tokalign playground {seed}")
        self._seen: set[str] = set()

    def _fresh(self) -> tuple[list[Request], str]:
        while True:
            requests = make_requests(self._rng)
            prompt = prompt_text(requests)
            if prompt not in self._seen:
                self._seen.add(prompt)
                return requests, prompt

    def _respond(self, requests: list[Request]) -> tuple[str, int]:
        return respond(requests, self._rng, loose=self._loose)

    def preferences(self, n: int) -> Iterator[dict[str, object]]:
        """Draw ``preferences/1`` rows. Of two responses, the one with fewer flaws is chosen."""
        for i in range(n):
            requests, prompt = self._fresh()
            while True:
                (a, flaws_a), (b, flaws_b) = (self._respond(requests) for _ in range(2))
                if flaws_a != flaws_b:
                    break
            chosen, rejected = (a, b) if flaws_a < flaws_b else (b, a)
            yield {
                "id": f"pref-{i}",
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
                "source": "playground",
            }

    def sft(self, n: int) -> Iterator[dict[str, object]]:
        """Draw ``sft/1`` rows, whose responses may have flaws."""
        for i in range(n):
            requests, prompt = self._fresh()
            yield {"id": f"sft-{i}", "prompt": prompt, "response": self._respond(requests)[0]}

    def prompts(self, n: int, name: str) -> Iterator[dict[str, object]]:
        """Draw ``prompts/1`` rows with the ids ``name-0``, ``name-1`` and so on."""
        for i in range(n):
            yield {"id": f"{name}-{i}", "prompt": self._fresh()[1]}
