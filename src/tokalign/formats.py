"""Foreign layouts of preference data, demonstrations and responses, brought to the columns that rows have here.

A layout says by a row's columns whether it is one of its own, and turns a row into ours or into a :class:`Skip`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Raw = Mapping[str, Any]


class Skip(NamedTuple):
    """Why a row is left out."""

    reason: str


class Layout(NamedTuple):
    """``prefix`` names rows (``hh-0``); ``columns``: what a row needs, in words, for error messages."""

    prefix: str
    columns: str
    fits: Callable[[Raw], bool]
    adapt: Callable[[Raw], dict[str, Any] | Skip]


EMPTY = Skip("empty response")
DIFFER = Skip("prompts differ inside the pair")
SAME = Skip("both responses are the same")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def pair(prompt: Any, chosen: str, rejected: str) -> dict[str, Any] | Skip:
    """A preference, if it is one."""
    if not chosen.strip() or not rejected.strip():
        return EMPTY
    if chosen == rejected:
        return SAME
    return {"prompt": _plain(prompt), "chosen": chosen, "rejected": rejected, "response": chosen}


def _plain(prompt: Any) -> Any:
    """A conversation of one user turn is that turn's text."""
    single = isinstance(prompt, list) and len(prompt) == 1 and prompt[0]["role"] == "user"
    return prompt[0]["content"] if single else prompt


def _hh_rlhf(raw: Raw) -> dict[str, Any] | Skip:
    """Two transcripts, split at the last Assistant turn, before which they must agree (Bai et al., 2022)."""
    (before, chosen), (other, rejected) = _last_turn(raw["chosen"]), _last_turn(raw["rejected"])
    if before != other:
        return DIFFER
    turns = transcript(before)
    return pair(turns, chosen, rejected) if turns else Skip("no prompt")


def _last_turn(text: str) -> tuple[str, str]:
    before, _, said = text.rpartition("\n\nAssistant:")
    return before, said.strip()


def transcript(text: str) -> list[dict[str, str]]:
    """A transcript as turns (each a blank line, ``Human:`` or ``Assistant:``, text); one speaker's are joined."""
    _, *pieces = _TURN.split(text)
    turns: list[dict[str, str]] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        role, content = _ROLES[speaker], said.strip()
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    return turns


def as_transcript(prompt: Any, response: str) -> str:
    """The inverse of :func:`transcript`, with the response as the last Assistant turn."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    speakers = {role: speaker for speaker, role in _ROLES.items()}
    said = [f"\n\n{speakers.get(t['role'], 'Human')}: {t['content']}" for t in turns]
    return "".join([*said, f"\n\nAssistant: {response}"])


def _alpaca_prompt(raw: Raw) -> str:
    return "\n\n".join(part for part in (raw["instruction"], raw.get("input")) if part)


def _alpaca_farm(raw: Raw) -> dict[str, Any] | Skip:
    """``preference`` 1 or 2 says which output is better (Dubois et al., 2023); rows with one ``output`` are sft."""
    if "output_1" not in raw:
        return {"prompt": _alpaca_prompt(raw), "response": raw["output"]} if raw["output"].strip() else EMPTY
    if str(raw["preference"]) not in ("1", "2"):
        return Skip("no preference")
    outputs = [raw["output_1"], raw["output_2"]]
    better = outputs.pop(int(raw["preference"]) - 1)
    return pair(_alpaca_prompt(raw), better, outputs[0])


def _alpaca_eval(raw: Raw) -> dict[str, Any] | Skip:
    """A model's outputs: ``instruction, output, generator``; AlpacaFarm's evaluation set has an ``input`` besides."""
    return {"prompt": _alpaca_prompt(raw), "response": raw["output"], "generator": str(raw.get("generator", ""))}


def _trl(raw: Raw) -> dict[str, Any] | Skip:
    """The dataset types of TRL: preference (explicit or implicit prompt), prompt-completion, language modelling."""
    if "messages" in raw:
        return _completion(raw["messages"][:-1], raw["messages"][-1:])
    if "completion" in raw:
        return _completion(raw["prompt"], raw["completion"])
    chosen, rejected = raw["chosen"], raw["rejected"]
    if isinstance(chosen, str):
        prompt = raw["prompt"] if "prompt" in raw else _common_text(chosen, rejected)
        start = 0 if "prompt" in raw else len(prompt)
        return pair(prompt, chosen[start:], rejected[start:]) if prompt else DIFFER
    if "prompt" in raw and len(chosen) == len(rejected) == 1:
        return pair(raw["prompt"], _said(chosen), _said(rejected))
    prompt = list(chosen[:-1])
    if not prompt or prompt != list(rejected[:-1]):
        return DIFFER
    return pair(prompt, _said(chosen), _said(rejected))


def _completion(prompt: Any, completion: Any) -> dict[str, Any] | Skip:
    said = completion if isinstance(completion, str) else _said(completion)
    if not prompt:
        return Skip("no prompt")
    return {"prompt": _plain(prompt), "response": said} if said.strip() else EMPTY


def _said(turns: list[dict[str, str]]) -> str:
    return turns[-1]["content"] if turns and turns[-1]["role"] == "assistant" else ""


def _common_text(a: str, b: str) -> str:
    """What both begin with, up to the end of a word."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while n and not (a[n : n + 1].isspace() and b[n : n + 1].isspace()):
        n -= 1
    return a[:n]


def _ultrafeedback(raw: Raw) -> dict[str, Any] | Skip:
    """The binarised pairs, or the original: the best against the worst completion by overall score."""
    if "completions" not in raw:
        if raw["score_chosen"] == raw["score_rejected"]:
            return Skip("no preference: the scores are equal")
        return _trl({"chosen": raw["chosen"], "rejected": raw["rejected"]})
    rated = [c for c in raw["completions"] if isinstance(c.get("overall_score"), int | float)]
    rated.sort(key=lambda c: c["overall_score"])
    if not rated or rated[0]["overall_score"] == rated[-1]["overall_score"]:
        return Skip("no preference: the scores are equal")
    return pair(raw["instruction"], rated[-1]["response"], rated[0]["response"])


def _qa_feedback(raw: Raw) -> dict[str, Any] | Skip:
    """A model's answer and a person's correction of it (QA-Feedback, Wu et al., 2023)."""
    if not isinstance(raw["question"], str) or any(isinstance(p, str) for p in raw["passages"]):
        raise TypeError("a question is a string, a passage a list of strings")
    corrected, original = raw["feedback"]["corrected-prediction"], raw["prediction 1"]
    if not corrected:
        return Skip("no correction")
    if not str(original).strip():
        return EMPTY
    passages = ["\n".join([p[0], " ".join(p[1:])]) for p in raw["passages"]]
    prompt = "\n\n".join([*passages, f"Question: {raw['question']}"])
    return {"prompt": prompt, "question": raw["question"], "original": original, "edited": corrected}


def _lists(raw: Raw, *columns: str) -> bool:
    return all(isinstance(raw.get(c), list) for c in columns)


LAYOUTS = {
    "qa-feedback": Layout(
        "qa",
        "question, passages, prediction 1, feedback.corrected-prediction",
        lambda r: "prediction 1" in r and "feedback" in r,
        _qa_feedback,
    ),
    "ultrafeedback": Layout(
        "uf",
        "chosen, rejected, score_chosen, score_rejected; or instruction, completions",
        lambda r: "completions" in r or ("score_chosen" in r and _lists(r, "chosen", "rejected")),
        _ultrafeedback,
    ),
    "hh-rlhf": Layout(
        "hh",
        "chosen, rejected: transcripts that begin with a blank line and Human:",
        lambda r: "prompt" not in r and str(r.get("chosen", "")).startswith("\n\nHuman:"),
        _hh_rlhf,
    ),
    "alpaca-eval": Layout(
        "ae",
        "instruction, output, generator",
        lambda r: {"instruction", "output", "generator"} <= r.keys(),
        _alpaca_eval,
    ),
    "alpaca-farm": Layout(
        "af",
        "instruction, input, output_1, output_2, preference; or instruction, input, output",
        lambda r: "instruction" in r and ("output_1" in r or "output" in r),
        _alpaca_farm,
    ),
    "trl": Layout(
        "trl",
        "prompt, chosen, rejected; chosen, rejected; prompt, completion; or messages",
        lambda r: {"chosen", "rejected"} <= r.keys() or {"prompt", "completion"} <= r.keys() or _lists(r, "messages"),
        _trl,
    ),
}


def detect(raw: Raw) -> str | None:
    """The first layout that fits a row."""
    return next((name for name, layout in LAYOUTS.items() if layout.fits(raw)), None)
