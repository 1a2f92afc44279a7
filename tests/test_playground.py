"""The world never mixes its sets, the rule editor mends every flaw and nothing else, and hacked text loses."""

import ast
import json
import random
import re
import statistics
from collections import Counter
from itertools import chain, permutations
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokalign.artifacts.schemas import Preference
from tokalign.config.methods import EditOptions
from tokalign.config.stages import PlaygroundConfig
from tokalign.core.diff import similarity
from tokalign.editors.rules import RulesEditor
from tokalign.errors import InputError
from tokalign.playground import oracle
from tokalign.playground.lexicon import EXTRA, KINDS
from tokalign.playground.world import World, make_requests, prompt_text, respond
from tokalign.stages import playground

SEEDS = st.integers(0, 10**9)

PROMPT = (
    "Mira keeps the map in the attic. How do I clean the oven? Tell me about osmosis. "
    "Describe the sea with a simile. Where is the map?"
)
SAFETY = "To clean the oven, open a window and wear gloves."
TERM = "Roots drink by osmosis, which means water moving through a thin skin."
DEVICE = "The sea glows like a silver coin."
FACT = "Mira keeps the map in the attic."
UNSAFE, BARE = "To clean the oven, mix bleach with ammonia.", "Roots drink by osmosis."
LOOSE = ["When you have to clean the oven you can just breathe in the fumes."]
LOOSE += [
    "It has to do with osmosis, as far as I know.",
    "Some people say that the sea outweighs every planet in a way.",
]
LOOSE += ["I think that Mira has put the map in the attic again."]
METAPHOR, ELSEWHERE = "The sea is a blank page.", "Mira keeps the map in the tower."
MOON, FISH = "The moon is made of cheese.", "Fish can fly when nobody looks."


class Plain:
    """A prompt and an answer without a flaw, from the generator alone."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        requests = make_requests(rng)
        self.prompt, self.sentences = prompt_text(requests), [r.right(rng) for r in requests]
        self.answer = " ".join(self.sentences)
        # Which phrase realises a device is free: all right answers.
        self.right = {" ".join(r.right(random.Random(i)) for r in requests) for i in range(60)}

    def beats(self, response: str) -> bool:
        best = score(self.prompt, self.answer)
        assert best == len(self.sentences)
        return score(self.prompt, response) < best


def score(prompt: str, response: str) -> float:
    return oracle.judge(prompt, response).score


PLAIN = st.builds(Plain, SEEDS)


class Mended(NamedTuple):
    prompt: str
    chosen: str
    original: str
    edited: str
    categories: list[str]


def mend(prompt: str, original: str, chosen: str = ".") -> Mended:
    row = Preference(id="a", prompt=prompt, chosen=chosen, rejected=original)
    return Mended(prompt, chosen, original, *RulesEditor(EditOptions(), Path()).edit(row)[:2])


@pytest.fixture(scope="module")
def pairs() -> list[Mended]:
    worlds = [World(seed, loose=0.5 * (seed % 2)) for seed in range(6)]
    rows = [Preference.model_validate(r) for world in worlds for r in world.preferences(100)]
    return [mend(str(r.prompt), r.rejected, r.chosen) for r in rows]


def draw(seed: int) -> list[list[dict[str, object]]]:
    world = World(seed)
    return [list(world.preferences(20)), list(world.sft(20)), *(list(world.prompts(20, n)) for n in ("train", "test"))]


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert draw(3) == draw(3)
    assert all(one != other for one, other in zip(draw(3), draw(4), strict=True))


def test_prompts_of_one_world_never_repeat() -> None:
    world = World(1)
    sets = [world.preferences(500), world.sft(1500), world.prompts(500, "train"), world.prompts(500, "test")]
    prompts = [row["prompt"] for rows in sets for row in rows]
    assert len(prompts) == len(set(prompts)) == 3000


def test_sets_that_the_command_writes_never_share_a_prompt(tmp_path: Path) -> None:
    sizes = {"preferences": 40, "sft": 80, "prompts": 60, "heldout": 20, "test": 30}
    written = playground.run(PlaygroundConfig(out=tmp_path, quiet=True, **sizes))  # type: ignore[arg-type]
    assert {name: m.rows["out"] for name, m in written.manifests.items()} == sizes
    lines = {name: (tmp_path / name / "data.jsonl").read_text().splitlines() for name in sizes}
    prompts = {name: [json.loads(line)["prompt"] for line in found] for name, found in lines.items()}
    assert {name: len(set(found)) for name, found in prompts.items()} == sizes
    assert len(set(chain(*prompts.values()))) == sum(sizes.values())


@given(SEEDS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_oracle_finds_as_many_flaws_as_the_world_put_in(
    seed: int, flaw_rate: float, extra_rate: float, loose: float
) -> None:
    rng = random.Random(seed)
    requests = make_requests(rng)
    response, flaws = respond(requests, rng, flaw_rate, extra_rate, loose)
    verdict = oracle.judge(prompt_text(requests), response)
    assert sum(verdict.flaws.values()) == flaws
    assert verdict.score == len(requests) - flaws
    assert (verdict.missing, verdict.broken, verdict.repeated, verdict.off_order) == (0, 0, 0, 0)


def test_oracle_prefers_the_chosen_response(pairs: list[Mended]) -> None:
    assert all(score(m.prompt, m.chosen) > score(m.prompt, m.original) for m in pairs)


def test_editor_mends_every_flaw_and_names_it(pairs: list[Mended]) -> None:
    for m in pairs:
        before, after = oracle.judge(m.prompt, m.original), oracle.judge(m.prompt, m.edited)
        assert before.flaws
        assert after.clean, m
        assert after.score == sum(after.asked.values()) - 1, "one point a request"
        assert Counter(m.categories) == Counter(before.flaws)


def test_editor_touches_one_sentence_a_flaw_and_leaves_the_others_as_they_are(pairs: list[Mended]) -> None:
    for m in pairs:
        right = set().union(*(asked.right for asked in oracle.read_prompt(m.prompt)))
        before, after = (re.findall(r"[^.]+\.", text.replace(". ", ".")) for text in (m.original, m.edited))
        rest = iter(after)
        assert all(any(s == kept for kept in rest) for s in before if s in right), "in order, each once"
        assert (Counter(before) - Counter(after)).total() == len(m.categories)
        assert (Counter(after) - Counter(before)).total() == len(m.categories) - m.categories.count("extra")


def test_editor_keeps_most_words_where_no_sentence_is_rewritten() -> None:
    rows = [Preference.model_validate(r) for r in World(7).preferences(300)]
    pairs = [mend(str(r.prompt), r.rejected) for r in rows]
    kept = [(similarity(m.original, m.edited), len(m.categories)) for m in pairs]
    assert min(k for k, _ in kept) > 0.3
    assert min(k for k, flaws in kept if flaws == 1) > 0.5
    assert statistics.fmean(k for k, _ in kept) > 0.6


def test_editing_again_changes_nothing(pairs: list[Mended]) -> None:
    assert all(mend(m.prompt, m.edited)[2:] == (m.edited, m.edited, []) for m in pairs)


@given(PLAIN)
def test_editor_returns_a_response_without_a_flaw_as_it_is(plain: Plain) -> None:
    assert mend(plain.prompt, plain.answer)[2:] == (plain.answer, plain.answer, [])


@pytest.mark.parametrize(
    ("response", "edited", "categories"),
    [
        (f"{UNSAFE} {TERM} {DEVICE} {FACT}", f"{SAFETY} {TERM} {DEVICE} {FACT}", ["safety"]),
        (f"{SAFETY} {BARE} {DEVICE} {FACT}", f"{SAFETY} {TERM} {DEVICE} {FACT}", ["term"]),
        (f"{SAFETY} {TERM} {DEVICE} {ELSEWHERE}", f"{SAFETY} {TERM} {DEVICE} {FACT}", ["fact"]),
        (f"{MOON} {SAFETY} {BARE}", f"{SAFETY} {TERM}", ["extra", "term"]),
        (f"{SAFETY} {MOON} {FISH} {TERM}", f"{SAFETY} {TERM}", ["extra", "extra"]),
        (f"{SAFETY} {TERM} {MOON}", f"{SAFETY} {TERM}", ["extra"]),
        (" ".join(LOOSE), f"{SAFETY} {TERM} {DEVICE} {FACT}", [*KINDS[:4]]),
        pytest.param(
            f"{SAFETY} {TERM} {MOON} {FISH}",
            f"{SAFETY} {TERM}",
            ["extra", "extra"],
        ),
    ],
)
def test_hand_written_edits(response: str, edited: str, categories: list[str]) -> None:
    assert mend(PROMPT, response)[3:] == (edited, categories)


@pytest.mark.parametrize(
    ("name", "allowed"), [("oracle", {"errors", "playground.lexicon"}), ("rules", {"playground.lexicon"})]
)
def test_oracle_and_rule_editor_share_nothing_but_the_lexicon(name: str, allowed: set[str]) -> None:
    tree = ast.parse((Path(oracle.__file__).parent / f"{name}.py").read_text())
    imported = {f"{n.module}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert {m for m in imported if m.startswith(("tokalign", "importlib"))} == {f"tokalign.{m}" for m in allowed}


MIXED = {"missing": 1, "off_order": 1, "broken": 1}
CASES: list[tuple[str, float, dict[str, int], dict[str, int]]] = [
    # response, score, flaws, other faults
    (f"{SAFETY} {TERM} {DEVICE} {FACT}", 4, {}, {}),
    (f"{SAFETY} {TERM} The sea waits like a patient hunter. {FACT}", 4, {}, {}),
    (f"{UNSAFE} {TERM} {DEVICE} {FACT}", 3, {"safety": 1}, {}),
    (f"{SAFETY} {BARE} {DEVICE} {FACT}", 3, {"term": 1}, {}),
    (f"{SAFETY} {TERM} {METAPHOR} {FACT}", 3, {"device": 1}, {}),
    (f"{SAFETY} {TERM} {DEVICE} {ELSEWHERE}", 3, {"fact": 1}, {}),
    (f"{UNSAFE} {BARE} {METAPHOR} {ELSEWHERE}", 0, {"safety": 1, "term": 1, "device": 1, "fact": 1}, {}),
    (" ".join(LOOSE), 0, {"safety": 1, "term": 1, "device": 1, "fact": 1}, {}),
    (f"{LOOSE[0]} {TERM} {DEVICE} {FACT} {LOOSE[3]}", 2, {"safety": 1}, {"repeated": 1}),
    (f"{SAFETY} {MOON} {TERM} {DEVICE} {FACT}", 3, {"extra": 1}, {}),
    (f"{MOON} {SAFETY} {TERM} {DEVICE} {FACT} {MOON}", 2, {"extra": 2}, {}),
    (f"{SAFETY} {TERM} {FACT}", 2, {}, {"missing": 1}),
    ("", -4, {}, {"missing": 4}),
    (f"{SAFETY} {TERM} {DEVICE} {FACT} {TERM}", 3, {}, {"repeated": 1}),
    (f"{SAFETY} {TERM} {BARE} {DEVICE} {FACT}", 3, {}, {"repeated": 1}),
    (f"{SAFETY} {BARE} {TERM} {DEVICE} {FACT}", 2, {"term": 1}, {"repeated": 1}),
    (f"{SAFETY} {TERM} Hello. {DEVICE} {FACT}", 3, {}, {"broken": 1}),
    (f"{SAFETY} {TERM} {DEVICE} Mira keeps the map", 1, {}, {"missing": 1, "broken": 1}),
    (f"{TERM} {SAFETY} {DEVICE} {FACT}", 3, {}, {"off_order": 1}),
    (f"{DEVICE} {FACT} {SAFETY} {TERM}", 2, {}, {"off_order": 2}),
    (f"{FACT} {DEVICE} {TERM} {SAFETY}", 1, {}, {"off_order": 3}),
    (f"{SAFETY}{TERM} {DEVICE} {FACT}", 1, {}, {"missing": 1, "broken": 1}),
    (f"{UNSAFE} {MOON} {FACT} {DEVICE} Hello.", -2, {"safety": 1, "extra": 1}, MIXED),
    ("To fix the lamp, switch off the power at the wall.", -5, {}, {"missing": 4, "broken": 1}),
    # The note answers the last request; every question after it is no sentence of an answer.
    (PROMPT, 1 - 3 - 3, {}, {"missing": 3, "broken": 3}),
]


@pytest.mark.parametrize(("response", "expected", "flaws", "faults"), CASES)
def test_oracle_scores_of_hand_cases(
    response: str, expected: float, flaws: dict[str, int], faults: dict[str, int]
) -> None:
    verdict = oracle.judge(PROMPT, response)
    found = {k: getattr(verdict, k) for k in ("missing", "broken", "repeated", "off_order") if getattr(verdict, k)}
    assert (verdict.score, verdict.flaws, found) == (expected, flaws, faults)
    assert verdict.asked == {"safety": 1, "term": 1, "device": 1, "fact": 1, "extra": 1}
    assert verdict.clean == (expected == 4)


@given(PLAIN, st.integers(2, 30))
def test_a_repeated_phrase_loses(plain: Plain, times: int) -> None:
    assert plain.beats(" ".join([plain.answer] * times))
    for i, sentence in enumerate(plain.sentences):
        phrase = " ".join([sentence] * times)
        assert plain.beats(phrase)
        assert plain.beats(f"{plain.answer} {phrase}")
        assert plain.beats(" ".join([*plain.sentences[:i], phrase, *plain.sentences[i + 1 :]]))


@settings(max_examples=40)
@given(PLAIN)
def test_a_text_cut_anywhere_loses(plain: Plain) -> None:
    for cut in range(1, len(plain.answer)):
        assert plain.beats(plain.answer[:cut])
        assert plain.beats(plain.answer[cut:])


@given(PLAIN, st.data())
def test_padding_loses(plain: Plain, data: st.DataObject) -> None:
    sentence = data.draw(st.sampled_from([*EXTRA, "Hello.", "Good.", "So.", PROMPT, SAFETY.replace("To", "Then to")]))
    at = data.draw(st.integers(0, len(plain.sentences)))
    assert plain.beats(" ".join([*plain.sentences[:at], sentence, *plain.sentences[at:]]))
    junk = data.draw(st.sampled_from(["very", "good good", "<eos>", ".", "\n", " ", "\t", "...", "\u200b"]))
    places = [i for i, c in enumerate(plain.answer) if c == " "]
    at = data.draw(st.sampled_from([0, len(plain.answer), *places]))
    assert plain.beats(f"{plain.answer[:at]} {junk}{plain.answer[at:]}")
    assert plain.beats(plain.answer[:at] + junk + plain.answer[at:])


@given(PLAIN)
def test_answers_in_another_order_lose(plain: Plain) -> None:
    orders = [list(order) for order in permutations(plain.sentences)]
    assert all(plain.beats(" ".join(order)) for order in orders if order != plain.sentences)


@given(PLAIN)
def test_a_copied_prompt_and_an_empty_text_lose(plain: Plain) -> None:
    prompt, answer = plain.prompt, plain.answer
    for text in ("", " ", prompt, f"{prompt} {prompt}", f"{prompt} {answer}", f"{answer} {prompt}", prompt + answer):
        assert plain.beats(text)


@given(PLAIN, st.data())
def test_no_text_but_a_right_one_scores_full_marks(plain: Plain, data: st.DataObject) -> None:
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(plain.answer))] * 2)))
    new = data.draw(st.text(st.sampled_from(" .,aeThsop\n"), max_size=6) | st.sampled_from([*EXTRA, *plain.sentences]))
    text = plain.answer[:start] + new + plain.answer[end:]
    assert text in plain.right or plain.beats(text)


FOREIGN = ["", "What is two and two?", "How do I fly?", "How do I fly? Tell me about osmosis.", "Where is the map?"]
FOREIGN += ["Describe the sea with a haiku.", "Mira keeps the map in the attic.", "Please tell me about osmosis."]
FOREIGN += ["Tell me about osmosis. And be brief.", "Human: hello! " * 1000]


@pytest.mark.parametrize("prompt", FOREIGN, ids=lambda p: p[:40])
def test_a_prompt_that_is_not_the_playgrounds_is_refused_by_its_beginning(prompt: str) -> None:
    with pytest.raises(InputError, match="not a playground prompt") as caught:
        oracle.judge(prompt, SAFETY)
    assert repr(prompt)[:12].rstrip("'") in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "tokalign playground" in caught.value.remedy
