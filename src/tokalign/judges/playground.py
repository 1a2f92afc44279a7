"""The playground's oracle as a judge. It reads texts one by one, so order cannot sway it; one that was cut shows it."""

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
        """One comparison a prompt, with both scores as the reason."""
        compared = []
        for prompt, reference, candidate in zip(prompts, references, candidates, strict=True):
            r, c = _judge(prompt, reference.text).score, _judge(prompt, candidate.text).score
            compared.append(Comparison(prefer(c, r), f"candidate {c:g}, reference {r:g}"))
        return compared

    def describe(self, prompts: Sequence[Prompt], responses: Sequence[Answer]) -> dict[str, Any]:
        """Mean score; share of requests flawed, by kind and over all; other faults a response."""
        asked: Counter[str] = Counter()
        flaws: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        score = 0.0
        for prompt, response in zip(prompts, responses, strict=True):
            v = _judge(prompt, response.text)
            asked.update(v.asked)
            flaws.update(v.flaws)
            faults.update(missing=v.missing, broken=v.broken, repeated=v.repeated, off_order=v.off_order)
            score += v.score
        n = len(responses)
        requests = [k for k in asked if k != "extra"]
        return {
            "score": score / n,
            "flawed": sum(flaws[k] for k in requests) / sum(asked[k] for k in requests),
            "flaws": {k: flaws[k] / asked[k] for k in sorted(asked)},
            "faults": {k: v / n for k, v in faults.items()},
        }


def _judge(prompt: Prompt, response: str) -> oracle.Verdict:
    if len(said := contents(prompt)) != 1:
        raise InputError("the playground judge takes prompts of one turn", field="prompt")
    return oracle.judge(said[0], response)


def make_judge(options: JudgeOptions, _: Path) -> Comparing:
    """The rules as the judge of a stage."""
    return Comparing(options, PlaygroundJudge)
