"""Writes src/tokalign/__init__.pyi: the public names of ``tokalign``, for type checkers and editors.

python bench/docs/stub.py
"""

import inspect
import re
from pathlib import Path
from typing import Any

import tokalign
from tokalign.api.commands import FUNCTIONS, signature
from tokalign.config.commands import COMMANDS

STUB = Path(__file__).resolve().parents[2] / "src" / "tokalign" / "__init__.pyi"


def stub() -> str:
    """The content of the stub file."""
    lines = [
        '"""Made by bench/docs/stub.py from the options of the commands."""', "",
        "from pathlib import Path", "from typing import Literal", "",
    ]  # fmt: skip
    lines += [
        f"from tokalign.api.{room} import {name} as {name}"
        for name, room in sorted(vars(tokalign)["_ELSEWHERE"].items(), key=lambda item: (item[1], item[0]))
    ]
    lines += ["from tokalign.artifacts.result import StageResult", "", "__version__: str", "__all__: list[str]", ""]
    for name in vars(tokalign)["_COMMANDS"]:
        parameters_of = signature(name).parameters.values()
        parameters = [_shown(p) for p in parameters_of]
        positional = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters_of)
        parameters.insert(positional, "*")
        lines.append(f"def {name}(\n    " + ",\n    ".join(parameters) + ",\n) -> StageResult:")
        lines.append(f'    """{COMMANDS[FUNCTIONS[name]].about}"""')
    return "\n".join(lines) + "\n"


def _shown(parameter: inspect.Parameter) -> str:
    hint = re.sub(r"\btyping\.|\bpathlib\.", "", _named(parameter.annotation))
    hint = re.sub(r"Optional\[(.*)\]", r"\1 | None", hint)
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {hint}{default}"


def _named(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def main() -> None:
    """Write the stub file."""
    STUB.write_text(stub(), encoding="utf-8")


if __name__ == "__main__":
    main()
