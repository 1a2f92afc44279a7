"""Every command as a function: the options of the command line by keyword, the same artifacts, the same errors."""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from tokalign.config.commands import COMMANDS
from tokalign.config.options import StageOptions, is_required
from tokalign.runtime import invocation, sandbox

_OTHERWISE = {"playground": "make_playground", "report": "make_report"}
"""Functions that cannot have the name of their command, since a room of the package has it."""
FUNCTIONS = {_OTHERWISE.get(name, name.replace("-", "_")): name for name in COMMANDS if name not in ("show", "verify")}
"""Functions, with the commands that they are."""


def function(name: str) -> Callable[..., Any]:
    """The function of a command; its parameters are the command's options.

    It raises what the command would have ended with: :class:`tokalign.errors.TokalignError` and its kinds.
    """
    command = COMMANDS[FUNCTIONS[name]]
    options = command.load_options()
    hints, known = get_type_hints(options), fields(options)
    first = [f.name for f in known if f.metadata["positional"]]

    def run(*args: Any, **given: Any) -> Any:
        if len(args) > len(first):
            raise TypeError(f"{name}() takes {len(first)} argument{'s' * (len(first) != 1)} by position")
        values = {"quiet": True} if "quiet" in hints else {}
        values |= {**dict(zip(first, args, strict=False)), **given}
        for key in values.keys() - hints.keys():
            raise TypeError(f"{name}() has no option {key!r}")
        for f in known:
            if f.name in values:
                values[f.name] = _fitting(values[f.name], hints[f.name])
            elif is_required(f):
                raise TypeError(f"{name}() needs {f.name!r}")
        config = options(**values)
        if isinstance(config, StageOptions):
            sandbox.set_limits(sandbox.Limits(config.probe_seconds, config.probe_memory))
        with invocation.of(["python", f"tokalign.{name}"]):
            return importlib.import_module(command.module).run(config)

    run.__name__ = run.__qualname__ = name
    run.__module__ = "tokalign"
    run.__doc__ = _described(command.about, known)
    run.__signature__ = signature(name)  # type: ignore[attr-defined]
    return run


def signature(name: str) -> inspect.Signature:
    """What a function takes: what is positional on the command line may be here, all the rest goes by keyword."""
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
        parameters.append(
            inspect.Parameter(f.name, kind, default=default, annotation=_accepted(hints[f.name], f.metadata["role"]))
        )
    return inspect.Signature(parameters)


def _accepted(hint: Any, role: str) -> Any:
    """What may be given where the command line makes a path, or a list of one."""
    if hint is Path or (hint is str and role == "input"):
        return str | Path
    if hint == Path | None or (hint == str | None and role == "input"):
        return str | Path | None
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        one = _accepted(inner, role)
        return list[one] | one  # type: ignore[valid-type]
    return hint


def _fitting(value: Any, hint: Any) -> Any:
    """A value as the options have it: paths as what they are there, and a list of one for one."""
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        return [_fitting(one, inner) for one in (value if isinstance(value, list | tuple) else [value])]
    if isinstance(value, str | Path):
        return Path(value) if Path in (hint, *get_args(hint)) else str(value)
    return value


def _described(about: str, known: Any) -> str:
    lines = [f"    {f.name}: {f.metadata['about']}." for f in known]
    return "\n".join([about, "", "Args:", *lines])
