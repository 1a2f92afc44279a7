"""Schemas of all artifacts: row types, and for each kind its version and the command that makes it."""

from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

CATEGORIES = ("safety", "truthfulness", "helpfulness", "instruction following", "style", "none")
"""Categories of flaws in a response."""
Prompt = str | list[dict[str, str]]
"""The text of a user turn, or a list of ``{role, content}`` turns."""


def _no_surrogate(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"lone surrogate at character {e.start}; no tokenizer takes it") from e
    return text


def _valid_turns(prompt: str | list[dict[str, str]]) -> str | list[dict[str, str]]:
    if isinstance(prompt, list):
        if not prompt:
            raise ValueError("a conversation needs at least one turn")
        for turn in prompt:
            if set(turn) != {"role", "content"}:
                raise ValueError(f"a turn has role and content, got {sorted(turn)}")
            _no_surrogate(turn["role"])
            _no_surrogate(turn["content"])
        return prompt
    return _no_surrogate(prompt)


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("the response is empty")
    return text


Text = Annotated[str, AfterValidator(_no_surrogate)]
Response = Annotated[str, AfterValidator(_no_surrogate), AfterValidator(_not_empty)]
PromptField = Annotated[str | list[dict[str, str]], AfterValidator(_valid_turns)]
Id = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_no_surrogate)]


class Row(BaseModel):
    """Base class of row types. Types are strict; unknown columns are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    id: Id


class Preference(Row):
    """``preferences/1``: a prompt with a preferred and a less preferred response."""

    prompt: PromptField
    chosen: Response
    rejected: Response
    source: Text = ""


class RecordedEdit(Row):
    """An edit made by another tool: the input of ``edit --editor recorded``."""

    prompt: PromptField
    original: Response
    edited: Text
    chosen: Text | None = None
    categories: list[Text] = []
    rationale: Text = ""


class Edit(Row):
    """``edits/1``: the less preferred response before and after the minimal edit."""

    prompt: PromptField
    original: Response
    edited: Text
    chosen: Text | None = None
    editor: Text = "recorded"
    model: Text | None = None
    prompt_version: Text | None = None
    status: Literal["edited", "unchanged", "rejected", "failed"] = "edited"
    reason: Text = ""
    categories: list[Text] = []
    rationale: Text = ""
    similarity: float | None = None
    attempts: int = 1
    usage: dict[str, Any] | None = None
    annotator: Text | None = None
    """Name of the person who accepted or made the edit."""
    proposed: Text | None = None
    """The edit of another editor that the person reviewed."""

    @property
    def stands(self) -> bool:
        """Whether the edit can be used: it passed the gates, or no change was needed."""
        return self.status in ("edited", "unchanged")


class PromptRow(Row):
    """``prompts/1``: a prompt."""

    prompt: PromptField


class Sft(Row):
    """``sft/1``: a prompt with the response to learn."""

    prompt: PromptField
    response: Response


class ResponseRow(Row):
    """``responses/1``: a response, with key (id, sample). ``finished``: it ends with EOS."""

    sample: int = 0
    prompt: PromptField
    response: Text
    finished: bool = True
    generator: Text = ""


class Answer(NamedTuple):
    """A response. ``finished`` is False if it was cut off at the maximum length."""

    text: str
    finished: bool = True


class TokenRewards(Row):
    """``token-rewards/1``. Sequence-level models have null probabilities and their score at the last token."""

    sample: int
    prompt: PromptField
    response: Text
    tokens: list[str]
    offsets: list[Annotated[list[int], Len(2, 2)]]
    p_bad: list[float] | None
    p_neutral: list[float] | None
    p_good: list[float] | None
    reward: list[float]
    score_mean: float
    score_sum: float

    @model_validator(mode="after")
    def _equal_lengths(self) -> "TokenRewards":
        columns = (self.tokens, self.offsets, self.reward, self.p_bad, self.p_neutral, self.p_good)
        if len({len(c) for c in columns if c is not None}) > 1:
            raise ValueError("tokens, offsets, rewards and probabilities differ in number")
        if len({self.p_bad is None, self.p_neutral is None, self.p_good is None}) > 1:
            raise ValueError("some probabilities are null, others are not")
        return self


class PairScores(Row):
    """``reward-metrics/1``: an original and its edited response with their mean rewards per token, or their scores."""

    prompt: PromptField
    original: Text
    edited: Text
    original_score: float
    edited_score: float


class Judgement(Row):
    """``judgements/1``, with key (id, candidate, judge, order). ``preference``: 1 (reference) to 2 (candidate)."""

    candidate: Text
    reference: Text = ""
    judge: Text = ""
    order: Literal["reference_first", "candidate_first"]
    preference: Annotated[float, Field(ge=1, le=2)] | None
    reason: Text = ""
    usage: dict[str, Any] | None = None


class Compared(Row):
    """A row of ``compared.jsonl`` in ``winrates/1``. It also has a column with the response of each candidate."""

    prompt: PromptField
    preferences: dict[str, Annotated[float, Field(ge=1, le=2)] | None]


class TokenLabels(NamedTuple):
    """A row of ``token-labels/1``. Response ids end with EOS (label 0, offsets [len, len)).

    ``*_labels``: -1 bad, 0 neutral, +1 good; ``*_offsets``: in code points; ``*_spans``: the edit that a token is in.
    """

    id: str
    prompt: list[dict[str, str]]
    original: str
    edited: str
    chosen: str | None
    categories: list[str]
    similarity: float
    prompt_ids: list[int]
    original_ids: list[int]
    original_labels: list[int]
    original_offsets: list[list[int]]
    original_spans: list[int]
    edited_ids: list[int]
    edited_labels: list[int]
    edited_offsets: list[list[int]]
    edited_spans: list[int]


class Kind(NamedTuple):
    """A kind of artifact. ``row``: row type of its JSONL data, else None. ``made_by``: the command that makes it."""

    version: int
    row: type[Row] | None
    made_by: str
    data: str = "data.jsonl"
    """Glob pattern of the required data files."""


KINDS = {
    "preferences": Kind(1, Preference, "tokalign playground (or a plain file of preference rows)"),
    "edits": Kind(1, Edit, "tokalign edit"),
    "token-labels": Kind(1, None, "tokalign diff", "data*.arrow"),
    "prompts": Kind(1, PromptRow, "tokalign playground (or a plain file of prompt rows)"),
    "sft": Kind(1, Sft, "tokalign playground (or a plain file of prompt and response rows)"),
    "reward-model": Kind(1, None, "tokalign train-rm", "config.json"),
    "policy": Kind(1, None, "tokalign train-sft or train-ppo", "config.json"),
    "responses": Kind(1, ResponseRow, "tokalign generate"),
    "token-rewards": Kind(1, TokenRewards, "tokalign score"),
    "reward-metrics": Kind(1, PairScores, "tokalign eval-rm"),
    "judgements": Kind(1, Judgement, "tokalign eval-winrate"),
    "winrates": Kind(1, None, "tokalign eval-winrate", "data.json"),
}
