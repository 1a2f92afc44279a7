"""Layouts of other datasets: for each, how it is detected and how its rows are converted."""

from collections.abc import Callable
from typing import NamedTuple

from tokalign.data import converters
from tokalign.data.columns import Raw, Shape
from tokalign.data.conversation import UnusableError
from tokalign.data.converters import Made


class Skip(NamedTuple):
    """The reason why a row is skipped."""

    reason: str


class Layout(NamedTuple):
    """A layout. ``prefix``: start of row ids (``hh-0``); ``columns``: the required columns, for error messages."""

    prefix: str
    columns: str
    fits: Callable[[Shape], bool]
    adapt: Callable[[Raw], Made]


def _is_pair(shape: Shape) -> bool:
    return shape.has("chosen", "rejected")


def _fits_trl(shape: Shape) -> bool:
    if _is_pair(shape):
        as_turns = shape.holds("turns", "chosen", "rejected")
        return shape.has("prompt") or as_turns or not shape.strange
    return shape.has("prompt", "completion") or shape.holds("turns", "messages")


LAYOUTS = {
    "qa-feedback": Layout(
        "qa",
        "question, passages, prediction 1, feedback.corrected-prediction",
        lambda s: s.has("prediction 1", "feedback"),
        converters.qa_feedback,
    ),
    "ultrafeedback": Layout(
        "uf",
        "chosen, rejected, score_chosen, score_rejected; or instruction, completions",
        lambda s: s.has("instruction", "completions")
        or (s.has("score_chosen", "score_rejected") and s.holds("turns", "chosen", "rejected")),
        converters.ultrafeedback,
    ),
    "nectar": Layout("nectar", "prompt, answers with rank", lambda s: s.has("prompt", "answers"), converters.nectar),
    "shp": Layout(
        "shp",
        "history, human_ref_A, human_ref_B, labels",
        lambda s: s.has("history", "human_ref_A", "human_ref_B", "labels"),
        converters.shp,
    ),
    "pku-saferlhf": Layout(
        "pku",
        "prompt, response_0, response_1, better_response_id",
        lambda s: s.has("prompt", "response_0", "response_1", "better_response_id"),
        converters.pku,
    ),
    "helpsteer": Layout(
        "hs",
        "prompt, response_1, response_2, preference_strength; or context, response1, response2, overall_preference",
        lambda s: s.has("prompt", "response_1", "response_2", "preference_strength")
        or s.has("context", "response1", "response2", "overall_preference"),
        converters.helpsteer,
    ),
    "hh-rlhf": Layout(
        "hh",
        "chosen, rejected: transcripts that begin with a blank line and Human:",
        lambda s: s.holds("transcript", "chosen") and not s.prompt_like,
        converters.hh_rlhf,
    ),
    "argilla": Layout(
        "arg",
        "instruction, chosen_response, rejected_response; or prompt (or input), chosen, rejected and their ratings",
        lambda s: (s.has("chosen_response", "rejected_response") and (s.has("instruction") or s.has("prompt")))
        or (_is_pair(s) and s.has("prompt", "chosen-rating"))
        or (_is_pair(s) and s.has("input") and not s.has("instruction") and not s.has("prompt")),
        converters.argilla,
    ),
    "llama-factory": Layout(
        "lf",
        "instruction (input, system, history) with chosen, rejected or output; or conversations, chosen, rejected",
        lambda s: (s.has("instruction") and (_is_pair(s) or s.holds("list", "output")))
        or (s.has("instruction", "output") and (s.has("system") or s.has("history")))
        or (_is_pair(s) and not s.has("prompt") and any(s.holds("turns", c) for c in ("conversations", "messages"))),
        converters.llama_factory,
    ),
    "orca": Layout(
        "orca",
        "question (system), chosen, rejected; or question, system_prompt, response",
        lambda s: s.has("question")
        and ((_is_pair(s)) or (s.has("response") and (s.has("system") or s.has("system_prompt")))),
        converters.orca,
    ),
    "sharegpt": Layout(
        "sg",
        "conversations of from and value",
        lambda s: s.holds("turns", "conversations") or s.holds("turns", "conversation"),
        converters.sharegpt,
    ),
    "alpaca-eval": Layout(
        "ae",
        "instruction, output, generator",
        lambda s: s.has("instruction", "output", "generator"),
        converters.alpaca_eval,
    ),
    "alpaca-farm": Layout(
        "af",
        "instruction, input, output_1, output_2, preference; or instruction, input, output",
        lambda s: s.has("instruction") and (s.has("output_1") or s.has("output")),
        converters.alpaca_farm,
    ),
    "trl": Layout(
        "trl",
        "prompt, chosen, rejected; chosen, rejected; prompt, completion; or messages",
        _fits_trl,
        converters.trl,
    ),
}  # fmt: skip
_MEDIA = frozenset(("image", "images", "audio", "audios", "video", "videos"))
_JSON_COLUMNS = frozenset(("conversations", "conversation", "messages", "completions", "answers", "context"))
"""Columns that are never plain text in any layout; in CSV, their cells are JSON."""


def detect(shape: Shape) -> str | None:
    """Return the name of the first layout that matches, or None."""
    return next((name for name, layout in LAYOUTS.items() if layout.fits(shape)), None)


def adapt(name: str, raw: Raw) -> Made:
    """Convert a row of the layout ``name`` to tokalign's columns.

    Raises:
        UnusableError: the row cannot be used.
    """
    if not _MEDIA.isdisjoint(raw) and any(raw.get(column) for column in _MEDIA):
        raise UnusableError("a row with an image, a sound or a video; only text is read")
    return LAYOUTS[name].adapt(raw)


def spelt_out(shape: Shape) -> frozenset[str]:
    """Return the columns of a CSV file whose cells are parsed as JSON. Responses always stay text."""
    conversations = {name for name, kind in shape.kinds.items() if kind == "turns"}
    return frozenset(conversations | (_JSON_COLUMNS & shape.kinds.keys()))
