"""Every command as a function, with the options of the command line as keyword arguments."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from tokalign.artifacts.result import StageResult
from tokalign.config.commands import COMMANDS
from tokalign.config.options import StageOptions, is_required
from tokalign.runtime import invocation, sandbox

_RENAMED = {"playground": "make_playground", "report": "make_report"}
"""Functions with another name than their command, because a package of tokalign has that name."""
FUNCTIONS = {_RENAMED.get(name, name.replace("-", "_")): name for name in COMMANDS if name not in ("show", "verify")}
"""Function name → command name."""


def function(name: str) -> Callable[..., StageResult]:
    """Make the function of a command. Its parameters are the options of the command.

    The function returns the result of the command with its manifest. It raises the
    :class:`tokalign.errors.TokalignError` that the command would have printed.
    """
    command = COMMANDS[FUNCTIONS[name]]
    options = command.load_options()
    hints, known = get_type_hints(options), fields(options)
    positional = [f.name for f in known if f.metadata["positional"]]

    def run(*args: Any, **kwargs: Any) -> StageResult:
        if len(args) > len(positional):
            raise TypeError(
                f"{name}() takes {len(positional)} positional argument{'s' * (len(positional) != 1)}, not {len(args)}"
            )
        values = {"quiet": True} if "quiet" in hints else {}
        values |= {**dict(zip(positional, args, strict=False)), **kwargs}
        for key in values.keys() - hints.keys():
            raise TypeError(f"{name}() has no option {key!r}")
        for f in known:
            if f.name in values:
                values[f.name] = _converted(values[f.name], hints[f.name])
            elif is_required(f):
                raise TypeError(f"{name}() needs {f.name!r}")
        config = options(**values)
        if isinstance(config, StageOptions):
            sandbox.set_limits(sandbox.Limits(config.probe_seconds, config.probe_memory))
        with invocation.of(["python", f"tokalign.{name}"]):
            result: StageResult = importlib.import_module(command.module).run(config)
        return result

    run.__name__ = run.__qualname__ = name
    run.__module__ = "tokalign"
    run.__doc__ = _docstring(command.about, known)
    run.__signature__ = signature(name)  # type: ignore[attr-defined]
    return run


def signature(name: str) -> inspect.Signature:
    """Make the signature of a function. Arguments of the command may be positional, options are keyword-only."""
    options = COMMANDS[FUNCTIONS[name]].load_options()
    hints = get_type_hints(options)
    parameters = []
    for f in sorted(fields(options), key=lambda f: (not f.metadata["positional"], not is_required(f))):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if f.metadata["positional"] else inspect.Parameter.KEYWORD_ONLY
        default: Any = inspect.Parameter.empty
        if not is_required(f):
            default = f.default if f.default_factory is MISSING else f.default_factory()
        if f.name == "quiet":
            default = True
        parameters.append(inspect.Parameter(f.name, kind, default=default, annotation=_accepted(f, hints[f.name])))
    return inspect.Signature(parameters)


def _accepted(f: Field[Any], hint: Any) -> Any:
    """Return the type that a function accepts for an option: also str for a path, and one value for a list."""
    is_input = f.metadata["role"] == "input"
    if hint is Path or (hint is str and is_input):
        return str | Path
    if hint == Path | None or (hint == str | None and is_input):
        return str | Path | None
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        item = _accepted(f, inner)
        return list[item] | item  # type: ignore[valid-type]
    return hint | None if f.default is None and not isinstance(hint, UnionType) else hint


def _converted(value: Any, hint: Any) -> Any:
    """Convert a value to the type of its option: str to path or path to str, one value to a list of one."""
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        return [_converted(item, inner) for item in (value if isinstance(value, list | tuple) else [value])]
    if isinstance(value, str | Path):
        return Path(value) if Path in (hint, *get_args(hint)) else str(value)
    return value


def _docstring(about: str, known: Any) -> str:
    lines = [f"    {f.name}: {f.metadata['about']}." for f in known]
    return "\n".join([about, "", "Args:", *lines])
