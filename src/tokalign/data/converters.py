"""Convert rows of other layouts to the columns of tokalign, one function per layout.

A row that cannot be used raises :class:`UnusableError`. If only its prompt can be used, the result has the key
``unusable`` with the reason.
"""

import math
from itertools import takewhile
from typing import Any

from tokalign.data.columns import TRANSCRIPT, Raw, is_prompt_name
from tokalign.data.conversation import (
    ENDS,
    NO_ANSWER,
    Turn,
    UnusableError,
    marked,
    parsed,
    plain,
    prompt_of,
    reply_of,
    text_of,
    transcript,
    turns_of,
    with_history,
    with_system,
)

Made = dict[str, Any]
EMPTY = "empty response"
DIFFER = "prompts differ inside the pair"
SAME = "both responses are the same"
EQUAL = "no preference: the scores are equal"


def pair(prompt: Any, chosen: str, rejected: str) -> Made:
    """Return a preference, with ``unusable`` set if a response is empty or both are the same."""
    if not prompt:
        raise UnusableError("no prompt")
    made = {"prompt": plain(prompt), "chosen": chosen, "rejected": rejected, "response": chosen}
    if not chosen.strip() or not rejected.strip():
        made["unusable"] = EMPTY
    elif chosen == rejected:
        made["unusable"] = SAME
    return made


def _demonstration(prompt: Any, response: str) -> Made:
    if not prompt:
        raise UnusableError("no prompt")
    made = {"prompt": plain(prompt), "response": response}
    return made if response.strip() else {**made, "unusable": EMPTY}


def _number(cell: Any, what: str) -> float:
    """Return a cell as a finite number; numbers in text, as in CSV, are converted."""
    found = _number_or_none(cell)
    if found is None:
        raise UnusableError(f"no {what}" if cell in (None, "") else f"{what} is not a number")
    return found


def _number_or_none(cell: Any) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        found = float(cell)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _cell(raw: Raw, *names: str) -> Any:
    """Return the first of these columns that is not empty."""
    return next((raw[name] for name in names if raw.get(name) not in (None, "")), None)


def hh_rlhf(raw: Raw) -> Made:
    """Two transcripts, split at the last Assistant turn; the text before it must be equal (Bai et al., 2022)."""
    (before, chosen), (other, rejected) = (_last_turn(text_of(raw.get(side), side)) for side in ("chosen", "rejected"))
    if before != other:
        raise UnusableError(DIFFER)
    return pair(transcript(before), chosen, rejected)


def _last_turn(text: str) -> tuple[str, str]:
    before, _, response = text.rpartition("\n\nAssistant:")
    if TRANSCRIPT in response:
        raise UnusableError(ENDS)
    return before, response.strip()


def _with_input(raw: Raw) -> str:
    """Join an instruction and its input, as Alpaca does."""
    parts = (text_of(raw.get(name) or "", name) for name in ("instruction", "input"))
    return "\n\n".join(part for part in parts if part)


def alpaca_farm(raw: Raw) -> Made:
    """Outputs with ``preference`` 1 or 2 (Dubois et al., 2023). Rows with one ``output`` are demonstrations."""
    if raw.get("output_1") is None and "output" in raw:
        return _demonstration(_with_input(raw), text_of(raw["output"], "output"))
    better = _number(raw.get("preference"), "preference")
    outputs = [text_of(raw.get(name), name) for name in ("output_1", "output_2")]
    if better not in (1, 2):
        raise UnusableError("no preference")
    chosen = outputs.pop(int(better) - 1)
    return pair(_with_input(raw), chosen, outputs[0])


def alpaca_eval(raw: Raw) -> Made:
    """Outputs of a model: ``instruction, output, generator``, and ``input`` in AlpacaFarm's evaluation set."""
    generator = str(raw.get("generator") or "")
    return {"prompt": _with_input(raw), "response": text_of(raw.get("output"), "output"), "generator": generator}


def trl(raw: Raw) -> Made:
    """The dataset types of TRL: preference (explicit or implicit prompt), prompt-completion, language modelling."""
    if "chosen" in raw or "rejected" in raw:
        return _preference(raw)
    if "completion" in raw:
        made = _with_completion(prompt_of(raw.get("prompt")), raw["completion"])
        return {**made, "unusable": "labelled as not wanted"} if _is_false(raw.get("label")) else made
    return _from_conversation(raw, "messages")


def _is_false(cell: Any) -> bool:
    """Whether ``label`` in TRL's unpaired preferences is false."""
    return cell is False or str(cell).lower() in ("false", "0")


def _with_completion(prompt: str | list[Turn], completion: Any) -> Made:
    *more, last = reply_of(completion, "completion")
    return _demonstration([*_as_turns(prompt), *more] if more else prompt, last["content"])


def _from_conversation(raw: Raw, *names: str) -> Made:
    """Convert a conversation to a demonstration: the last turn is the response."""
    turns = with_system(_cell(raw, "system", "system_prompt"), turns_of(_cell(raw, *names)))
    assert isinstance(turns, list)
    last = turns[-1]
    if last["role"] == "assistant":
        return _demonstration(turns[:-1], last["content"])
    wrong = ENDS if last["role"] == "user" else NO_ANSWER
    return {"prompt": plain(turns), "unusable": wrong}


def _preference(raw: Raw) -> Made:
    chosen, rejected = raw.get("chosen"), raw.get("rejected")
    prompt = raw.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is not None:
            return pair(_from_system(raw, prompt_of(prompt)), chosen, rejected)
        _refuse_prompt_like(raw)
        common = _common_text(chosen, rejected)
        if not common:
            raise UnusableError(DIFFER)
        return pair(common, chosen[len(common) :], rejected[len(common) :])
    context = None if prompt in (None, "", []) else prompt_of(prompt)
    return _pair_of(context, chosen, rejected, raw)


def _pair_of(context: str | list[Turn] | None, chosen: Any, rejected: Any, raw: Raw) -> Made:
    """Convert two responses, given as text, as turns, or as conversations that start with the prompt."""
    (*before, better), (*other, worse) = reply_of(chosen, "chosen"), reply_of(rejected, "rejected")
    if before != other:
        raise UnusableError(DIFFER)
    if context is None:
        prompt: str | list[Turn] = before
    elif not before:
        prompt = context
    elif isinstance(context, str) or before[: len(context)] == context:
        prompt = before  # the conversation is complete; the separate prompt is its last question or its beginning
    else:
        prompt = [*context, *before]
    if not prompt:
        raise UnusableError("no prompt")
    return pair(_from_system(raw, prompt), better["content"], worse["content"])


def _from_system(raw: Raw, prompt: str | list[Turn]) -> str | list[Turn]:
    system = raw.get("system") or raw.get("system_prompt")
    return with_system(system, prompt) if system else prompt


def _as_turns(prompt: str | list[Turn]) -> list[Turn]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _refuse_prompt_like(raw: Raw) -> None:
    """Refuse a row with another column that may be the prompt: its common prefix may not be the prompt."""
    for name, value in raw.items():
        if value and isinstance(value, str | list) and is_prompt_name(name):
            raise UnusableError(f"there is no prompt, but {name[:40]!r} may be one")


def _common_text(a: str, b: str) -> str:
    """Return the common prefix of two texts, cut at the end of a word."""
    n = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    while n and not (a[n : n + 1].isspace() and b[n : n + 1].isspace()):
        n -= 1
    return a[:n]


def ultrafeedback(raw: Raw) -> Made:
    """Binarised pairs, or the original data: the completions with the highest and the lowest overall score."""
    if "completions" not in raw:
        if _number(raw.get("score_chosen"), "score") == _number(raw.get("score_rejected"), "score"):
            raise UnusableError(EQUAL)
        return _pair_of(None, raw.get("chosen"), raw.get("rejected"), {})
    return _best_and_worst(
        text_of(raw.get("instruction"), "instruction"), parsed(raw["completions"]), "response", "overall_score"
    )


def _best_and_worst(prompt: str | list[Turn], answers: Any, text: str, score: str, sign: int = 1) -> Made:
    """Pair the best and the worst answer. ``text``, ``score``: their columns; ``sign`` -1: lower scores are better."""
    if not isinstance(answers, list) or not all(isinstance(a, dict) for a in answers):
        raise UnusableError("answers are not a list of objects")
    scores = [(_number_or_none(a.get(score)), k) for k, a in enumerate(answers)]
    rated = sorted(((sign * s, k) for s, k in scores if s is not None), key=lambda found: found[0])
    if not rated or rated[0][0] == rated[-1][0]:
        return {"prompt": prompt, "unusable": EQUAL}
    worst, best = (text_of(answers[k].get(text), text) for _, k in (rated[0], rated[-1]))
    return pair(prompt, best, worst)


def qa_feedback(raw: Raw) -> Made:
    """A model's answer and its correction by a person (QA-Feedback, Wu et al., 2023)."""
    question = raw.get("question")
    if not isinstance(question, str):
        raise UnusableError("no question")
    passages, feedback = parsed(raw.get("passages")), parsed(raw.get("feedback"))
    if not isinstance(passages, list) or not all(_is_passage(p) for p in passages):
        raise UnusableError("passages are not lists of strings")
    if not isinstance(feedback, dict) or "corrected-prediction" not in feedback:
        raise UnusableError("no feedback.corrected-prediction")
    corrected, original = feedback["corrected-prediction"], raw.get("prediction 1")
    prompt = "\n\n".join([*("\n".join([p[0], " ".join(p[1:])]) for p in passages), f"Question: {question}"])
    made = {"prompt": prompt, "question": question, "original": original, "edited": corrected}
    if not corrected:
        return {**made, "unusable": "no correction"}
    return made if str(original).strip() else {**made, "unusable": EMPTY}


def _is_passage(passage: Any) -> bool:
    return isinstance(passage, list) and bool(passage) and all(isinstance(line, str) for line in passage)


def orca(raw: Raw) -> Made:
    """Pairs of Intel's Orca DPO data, or demonstrations of OpenOrca: a system message and a question."""
    prompt = _from_system(raw, prompt_of(_cell(raw, "question", "prompt")))
    if "chosen" not in raw and "rejected" not in raw:
        return _demonstration(prompt, text_of(raw.get("response"), "response"))
    return _pair_of(prompt, raw.get("chosen"), raw.get("rejected"), {})


def llama_factory(raw: Raw) -> Made:
    """Pairs or demonstrations of LLaMA-Factory: an instruction with an input, or a conversation."""
    conversation = _cell(raw, "conversations", "messages")
    if conversation is not None:
        if "chosen" not in raw and "rejected" not in raw:
            return _from_conversation(raw, "conversations", "messages")
        context: list[Turn] | None = turns_of(conversation)
        assert context is not None
        if context[-1]["role"] == "assistant":
            if len(reply_of(raw.get("chosen"), "chosen")) == 1:
                raise UnusableError("the conversation before the answers ends with an assistant turn")
            context = None  # the responses repeat the conversation
        return _pair_of(context, raw.get("chosen"), raw.get("rejected"), raw)
    instruction = _with_input(raw)
    if not instruction:
        raise UnusableError("no prompt")
    prompt = _from_system(raw, with_history(parsed(raw.get("history")), instruction))
    output = raw.get("output")
    if "chosen" in raw or "rejected" in raw:
        return _pair_of(prompt, raw.get("chosen"), raw.get("rejected"), {})
    if isinstance(output, list):  # the older format of a pair
        if len(output) != 2:
            raise UnusableError(
                f"output is a list of {len(output)}, not of 2" if len(output) < 2 else "too many outputs"
            )
        return pair(prompt, text_of(output[0], "output"), text_of(output[1], "output"))
    return _demonstration(prompt, text_of(output, "output"))


def sharegpt(raw: Raw) -> Made:
    """A conversation in ``conversations`` of ``{from, value}``."""
    return _from_conversation(raw, "conversations", "conversation")


def argilla(raw: Raw) -> Made:
    """Pairs written by Argilla and distilabel."""
    prompt = prompt_of(_cell(raw, "instruction", "prompt", "input"))
    chosen, rejected = (_cell(raw, f"{side}_response", side) for side in ("chosen", "rejected"))
    if raw.get("status") == "tie":
        return {"prompt": _from_system(raw, prompt), "unusable": EQUAL}
    return _pair_of(prompt, chosen, rejected, raw)


def nectar(raw: Raw) -> Made:
    """Ranked answers: the best and the worst (Zhu et al., 2023)."""
    text = text_of(raw.get("prompt"), "prompt")
    prompt: str | list[Turn] = text
    if text.startswith(TRANSCRIPT):
        turns = transcript(text)
        prompt = turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns
    return _best_and_worst(plain(prompt), parsed(raw.get("answers")), "answer", "rank", -1)


def _choose(prompt: Any, first: Any, second: Any, first_is_better: bool | None) -> Made:
    one, other = text_of(first, "the first response"), text_of(second, "the second response")
    if first_is_better is None:
        return {"prompt": plain(prompt), "unusable": "no preference"}
    return pair(prompt, *((one, other) if first_is_better else (other, one)))


def shp(raw: Raw) -> Made:
    """Two comments on a post; ``labels`` 1: A is preferred (Ethayarajh et al., 2022)."""
    label = _number(raw.get("labels"), "labels")
    first = {1.0: True, 0.0: False}.get(label)
    return _choose(prompt_of(raw.get("history")), raw.get("human_ref_A"), raw.get("human_ref_B"), first)


def pku(raw: Raw) -> Made:
    """Two responses; ``better_response_id`` is the index of the more helpful one (Ji et al., 2024)."""
    better = {0.0: True, 1.0: False}.get(_number(raw.get("better_response_id"), "better_response_id"))
    return _choose(prompt_of(raw.get("prompt")), raw.get("response_0"), raw.get("response_1"), better)


def helpsteer(raw: Raw) -> Made:
    """Two responses; the preference is -3 (first much better) to 3 (second) (Wang et al., 2024 and 2025)."""
    if "preference_strength" in raw:
        strength, names = _number(raw["preference_strength"], "preference_strength"), ("response_1", "response_2")
        prompt = marked(text_of(raw.get("prompt"), "prompt"))
    else:
        strength, names = _number(raw.get("overall_preference"), "overall_preference"), ("response1", "response2")
        prompt = prompt_of(raw.get("context"))
    first, second = (raw.get(name) for name in names)
    return _choose(prompt, first, second, None if not strength else strength < 0)
