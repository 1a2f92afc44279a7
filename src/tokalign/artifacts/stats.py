"""Schemas of the ``stats`` of a manifest, one per kind, with the type and the bounds of every number.

Numbers are finite, and every estimate lies within its interval. Unknown fields are dropped on reading.
"""

from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Len
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

_STRICT = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
_ROUNDING = 1e-6


def _check_order(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the interval [{ends[0]}, {ends[1]}] is reversed")
    return ends


def _check_estimate(of: Any) -> Any:
    """Check that an estimate lies within its own interval."""
    if (ends := of.get("ci95")) is not None:
        value = next((of[name] for name in ("win_rate", "difference", "mean", "accuracy") if name in of), None)
        slack = _ROUNDING * max(1.0, abs(ends[0]), abs(ends[1]))
        if value is None or not ends[0] - slack <= value <= ends[1] + slack:
            raise ValueError(f"{value} does not lie within its interval {ends}")
    return of


_LARGEST = 1e300
Count = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[int | float, Field(ge=0, le=_LARGEST)]
Number = Annotated[int | float, Field(ge=-_LARGEST, le=_LARGEST)]
Share = Annotated[float, Field(ge=-_ROUNDING, le=1 + _ROUNDING)]
Percent = Annotated[float, Field(ge=-_ROUNDING, le=100 + _ROUNDING)]
Interval = Annotated[list[float], Len(2, 2), AfterValidator(_check_order)]
Step = Annotated[str, Field(pattern=r"^\d{1,9}$")]


@with_config(_STRICT)
class Shard(TypedDict):
    """Which shard of a run this is, and the counters from which the statistics of the whole are computed."""

    number: Count
    of: Count
    tally: dict[str, Number]


@with_config(_STRICT)
class Edits(TypedDict):
    """Statistics of ``edits``."""

    status: dict[str, Count]
    reasons: dict[str, Count]
    categories: dict[str, Count]
    similarity_mean: Share | None
    similarity_histogram: NotRequired[list[Count]]
    shard: NotRequired[Shard]


@with_config(_STRICT)
class TokenLabels(TypedDict):
    """Statistics of ``token-labels``."""

    tokens: Amount
    share_bad: Share
    share_good: Share
    share_neutral: Share
    edits_per_row: Amount
    rows_by_edits: NotRequired[dict[Step, Count]]
    similarity_histogram: NotRequired[list[Count]]
    longest_edits: NotRequired[dict[str, Count]]
    unchanged: Amount
    over_length: NotRequired[Amount]
    notes: NotRequired[list[str]]
    shard: NotRequired[Shard]


@with_config(_STRICT)
class _Pairs(TypedDict):
    mean: Share | None
    ci95: NotRequired[Interval | None]
    sum: NotRequired[Share | None]
    pairs: Count


@with_config(_STRICT)
class _Edits(TypedDict):
    accuracy: Share | None
    ci95: NotRequired[Interval | None]
    edits: Count


Pairs = Annotated[_Pairs, AfterValidator(_check_estimate)]
SingleEdits = Annotated[_Edits, AfterValidator(_check_estimate)]


@with_config(_STRICT)
class _Flips(_Edits):
    by_category: dict[str, SingleEdits]


@with_config(_STRICT)
class Class(TypedDict):
    """Precision, recall and F1 of one class of tokens. ``support``: number of tokens of that class."""

    precision: Share
    recall: Share
    f1: Share
    support: NotRequired[Count]


@with_config(_STRICT)
class Area(TypedDict):
    """Area under a ROC curve. The interval is computed from binned scores."""

    value: Share | None
    ci95: NotRequired[Interval | None]


@with_config(_STRICT)
class Bin(TypedDict):
    """A bin of the calibration: mean confidence, accuracy and number of tokens."""

    confidence: Share
    accuracy: Share
    n: Count


@with_config(_STRICT)
class Calibration(TypedDict):
    """Expected calibration error and bins; see :func:`tokalign.core.intervals.calibration`."""

    ece: Share
    bins: list[Bin]


@with_config(_STRICT)
class Recall(TypedDict):
    """Recall of the bad or the good tokens of one flaw category."""

    recall: Share | None
    tokens: NotRequired[Count]


@with_config(_STRICT)
class Length(TypedDict):
    """Correlation of the mean and the summed reward with the response length."""

    mean: Annotated[float, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING)] | None
    sum: NotRequired[Annotated[float, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING)] | None]


Sides = Literal["bad", "good"]


@with_config(_STRICT)
class RewardModel(TypedDict):
    """Statistics of ``reward-model``. Token-level models only: ``classes``, ``auroc``, ``calibration``, ``recall``."""

    level: Literal["token", "sequence"]
    steps: NotRequired[Count]
    final_loss: NotRequired[Number | None]
    best_step: NotRequired[Count]
    stopped: NotRequired[str]
    edited_over_original: Pairs
    chosen_over_rejected: Pairs
    flips: Annotated[_Flips, AfterValidator(_check_estimate)]
    length: NotRequired[Length]
    classes: NotRequired[dict[Literal["bad", "neutral", "good"], Class]]
    auroc: NotRequired[dict[Sides, Area]]
    calibration: NotRequired[Calibration]
    recall: NotRequired[dict[str, dict[Sides, Recall]]]
    notes: NotRequired[list[str]]


@with_config(_STRICT)
class SftPolicy(TypedDict):
    """Statistics of a ``policy`` trained by SFT."""

    steps: Count
    final_loss: Number | None
    stopped: NotRequired[str]
    weights: Count
    notes: NotRequired[list[str]]


@with_config(_STRICT)
class PpoPolicy(TypedDict):
    """Statistics of a ``policy`` trained by PPO."""

    steps: Count
    stopped: NotRequired[str]
    best_step: Count
    best_win_rate: Percent | None
    response_tokens: NotRequired[Count]
    reused_sampler_logprobs: NotRequired[bool]
    warnings: NotRequired[dict[str, str]]
    eval_prompts: NotRequired[Count]
    eval_prompts_left_out: NotRequired[Count]
    last: NotRequired[dict[str, Number | None]]
    notes: NotRequired[list[str]]


@with_config(_STRICT)
class Responses(TypedDict):
    """Statistics of ``responses``: share of finished ones, mean number of characters."""

    finished: NotRequired[Share]
    avg_length: NotRequired[Amount]
    notes: NotRequired[list[str]]
    shard: NotRequired[Shard]


@with_config(_STRICT)
class TokenRewards(TypedDict):
    """Statistics of ``token-rewards``."""

    level: Literal["token", "sequence"]
    score_mean: Number
    notes: NotRequired[list[str]]
    shard: NotRequired[Shard]


@with_config(_STRICT)
class _Candidate(TypedDict):
    win_rate: Percent | None
    standard_error: Amount | None
    ci95: NotRequired[Interval | None]
    n_total: Count
    n_wins: Count
    n_losses: Count
    n_ties: Count
    discrete_win_rate: Percent | None
    length_controlled_winrate: NotRequired[Percent | None]
    avg_length: NotRequired[Amount | None]
    n_unjudged: NotRequired[Count]
    n_disagreements: NotRequired[Count]
    agreement: NotRequired[Percent | None]
    same_position: NotRequired[Percent | None]
    prefers_first: NotRequired[Percent | None]


Candidate = Annotated[_Candidate, AfterValidator(_check_estimate)]


@with_config(_STRICT)
class _Paired(TypedDict):
    a: str
    b: str
    n: NotRequired[Count]
    difference: Number
    standard_error: Amount
    ci95: NotRequired[Interval | None]
    p_value: Share


@with_config(_STRICT)
class Described(TypedDict):
    """A judge's statistics of one set of responses. Shares and faults: the playground judge only."""

    score: Number
    flawed: NotRequired[Share]
    flaws: NotRequired[dict[str, Share]]
    faults: NotRequired[dict[str, Amount]]


@with_config(_STRICT)
class WinRates(TypedDict):
    """Statistics of ``winrates``."""

    candidates: dict[str, Candidate]
    paired: list[Annotated[_Paired, AfterValidator(_check_estimate)]]
    judge: NotRequired[dict[str, Described]]
    notes: NotRequired[list[str]]


@cache
def _schema(kind: str, by_ppo: bool) -> TypeAdapter[Any] | None:
    of_kind: dict[str, Any] = {
        "edits": Edits,
        "token-labels": TokenLabels,
        "reward-model": RewardModel,
        "reward-metrics": RewardModel,
        "policy": PpoPolicy if by_ppo else SftPolicy,
        "responses": Responses,
        "token-rewards": TokenRewards,
        "winrates": WinRates,
    }
    return TypeAdapter(of_kind[kind]) if kind in of_kind else None


def check(kind: str, stats: dict[str, Any]) -> dict[str, Any]:
    """Validate the stats of an artifact and drop unknown fields. Kinds without a schema are not checked.

    Raises:
        pydantic.ValidationError: the stats do not match the schema.
    """
    schema = _schema(kind, "best_step" in stats)
    if schema is None:
        return stats
    found: dict[str, Any] = schema.validate_python(stats)
    return found
