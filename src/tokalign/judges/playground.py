"""The playground's oracle as a judge. It scores each response alone, so that the order has no influence."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokalign.artifacts.schemas import Prompt
from tokalign.config.methods import JudgeOptions
from tokalign.data.conversation import contents
from tokalign.errors import InputError
from tokalign.judges import Answer, Comparing, Comparison, prefer
from tokalign.playground import oracle


class PlaygroundJudge:
    """Prefers the response with the higher oracle score."""

    name = "playground"

    def compare(
        self, prompts: Sequence[Prompt], references: Sequence[Answer], candidates: Sequence[Answer]
    ) -> list[Comparison]:
        """See :class:`tokalign.judges.Comparer`. The reason has both scores."""
        compared = []
        for prompt, reference, candidate in zip(prompts, references, candidates, strict=True):
            r, c = _judge(prompt, reference.text).score, _judge(prompt, candidate.text).score
            compared.append(Comparison(prefer(c, r), f"candidate {c:g}, reference {r:g}"))
        return compared

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """Return the mean score, the share of flawed requests overall and by flaw category, and faults per response."""
        counts: Counter[str] = Counter()
        flaws: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        score = 0.0
        for prompt, response in zip(prompts, responses, strict=True):
            v = _judge(prompt, response.text)
            counts.update(v.asked)
            flaws.update(v.flaws)
            faults.update(missing=v.missing, broken=v.broken, repeated=v.repeated, off_order=v.off_order)
            score += v.score
        n = len(responses)
        requests = [k for k in counts if k != "extra"]
        return {
            "score": score / n,
            "flawed": sum(flaws[k] for k in requests) / sum(counts[k] for k in requests),
            "flaws": {k: flaws[k] / counts[k] for k in sorted(counts)},
            "faults": {k: v / n for k, v in faults.items()},
        }


def _judge(prompt: Prompt, response: str) -> oracle.Verdict:
    if len(turns := contents(prompt)) != 1:
        raise InputError("the playground judge only takes prompts of one turn", field="prompt")
    return oracle.judge(turns[0], response)


def make_judge(options: JudgeOptions, _: Path) -> Comparing:
    """Create the judge for ``--judge playground``."""
    return Comparing(options, PlaygroundJudge)
