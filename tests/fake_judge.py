"""What the fake Claude answers when it is asked to judge: the response with more ``good`` in it is better.

``[[always: first]]`` in the prompt makes it always prefer this place; ``[[prose]]`` makes it say no verdict.
"""

import json
import re
from typing import Any

from tests.fake_claude import text_of


def judge(request: dict[str, Any]) -> str:
    """An answer in the judge's schema."""
    text = text_of(request)
    sides = {
        name: re.findall(rf"<{name}-(\w+)>\n(.*?)\n</{name}-\1>", text, re.DOTALL)[-1][1]
        for name in ("first", "second")
    }
    always = re.search(r"\[\[always: (\w+)\]\]", text)
    counts = {name: said.count("good") for name, said in sides.items()}
    verdict = "tie" if len(set(counts.values())) == 1 else max(counts, key=lambda name: counts[name])
    if "[[prose]]" in text:
        return "I cannot decide."
    return json.dumps({"reason": "It is\ngood.", "verdict": always[1] if always else verdict})
