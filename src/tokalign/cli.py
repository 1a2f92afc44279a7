"""The command line: parse the options, run the stage, print a summary. It contains no logic of the stages.

A command is built from its options dataclass: each field becomes an argument or an option, with ``about`` as help.
An option takes the first value found in this order: the flag, ``TOKALIGN_<COMMAND>_<OPTION>``, ``TOKALIGN_<OPTION>``,
the table ``[command]`` of ``--config FILE.toml``, the default.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from tokalign import __version__
from tokalign.config.commands import COMMANDS, Command
from tokalign.errors import TokalignError, UsageError
from tokalign.runtime import invocation, signals

if TYPE_CHECKING:
    from tokalign.config.options import Options


UNRESOLVED = 3
"""Exit code of a run that finished with failed rows or without any usable edit."""


class Grouped(TyperCommand):
    """A command whose help groups its options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under their headings, required options first."""
        from tokalign.config.panels import PANELS

        by_panel: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                by_panel.setdefault(getattr(parameter, "rich_help_panel", None) or PANELS[-1], []).append(record)
        for name in PANELS:
            if rows := by_panel.get(name):
                with formatter.section(name):
                    formatter.write_dl(rows)


class Commands(TyperGroup):
    """The group of all commands. Builds a command only when it is requested, so that ``--help`` is fast."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by name.

        Raises:
            UsageError: there is no such command; the remedy suggests the most similar name.
        """
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            similar = difflib.get_close_matches(args[0], COMMANDS, 1, 0.5)
            remedy = f"did you mean {similar[0]!r}?" if similar else "see tokalign --help"
            raise UsageError(f"no such command: {args[0]!r}", remedy=remedy)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Build a command with all its options; None if there is no such command."""
        return _build(cmd_name, COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands for the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.about) for name, command in COMMANDS.items()])


app = typer.Typer(
    name="tokalign",
    cls=Commands,
    help="Train language models with token-level rewards: minimal edits → token labels → reward model → PPO → win "
    "rates.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _signature(command: str, options: "type[Options]") -> inspect.Signature:
    from tokalign.config.options import is_required
    from tokalign.config.panels import panel

    hints = get_type_hints(options)
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    # Required options first, then the others in order of declaration.
    for f in sorted(fields(options), key=lambda f: not is_required(f)):
        names = [f"TOKALIGN_{command}_{f.name}", f"TOKALIGN_{f.name}"]
        envvar = [name.upper().replace("-", "_") for name in names] if f.metadata["env"] else None
        make = typer.Argument if f.metadata["positional"] else typer.Option
        option = make(help=f.metadata["about"], envvar=envvar, show_envvar=False, rich_help_panel=panel(options, f))
        default: Any = inspect.Parameter.empty
        if not is_required(f):
            default = f.default if f.default_factory is MISSING else f.default_factory()
        parameters.append(
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[hints[f.name], option],
            )
        )
    option = typer.Option(
        "--config",
        help="TOML file of options, with a table per command",
        envvar="TOKALIGN_CONFIG",
        show_envvar=False,
        is_eager=True,
        callback=_read_config,
        exists=True,
        dir_okay=False,
    )
    annotation = Annotated[Path | None, option]
    parameters.append(
        inspect.Parameter("config_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    )
    return inspect.Signature(parameters)


def _read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Read the command's table of a TOML file as its defaults. Unknown tables and keys are errors."""
    if path is None:
        return None
    import tomllib

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not valid TOML: {e}") from e
    for table, values in tables.items():
        if table not in COMMANDS or not isinstance(values, dict):
            raise UsageError(f"{path}: unknown table [{table}]", remedy=f"use one of {', '.join(COMMANDS)}")
        known = {f.name.replace("_", "-") for f in fields(COMMANDS[table].load_options())}
        for key in values:
            if key not in known:
                raise UsageError(f"{path}: unknown key {key!r} in [{table}]", remedy=f"see tokalign {table} --help")
    defaults = {key.replace("-", "_"): value for key, value in tables.get(ctx.info_name or "", {}).items()}
    hints = get_type_hints(COMMANDS[ctx.info_name].load_options()) if defaults and ctx.info_name else {}
    lists = {key for key in defaults if get_origin(hints[key]) is list}  # a single value stands for a list of one
    ctx.default_map = {k: [v] if k in lists and not isinstance(v, list) else v for k, v in defaults.items()}
    return path


def _build(name: str, command: Command) -> Any:
    from tokalign.config.options import StageOptions
    from tokalign.runtime import sandbox

    options = command.load_options()

    def body(ctx: typer.Context, config_file: Path | None, **values: Any) -> None:
        config = options(**values)
        if isinstance(config, StageOptions):
            sandbox.set_limits(sandbox.Limits(config.probe_seconds, config.probe_memory))
        with invocation.of(["tokalign", *sys.argv[1:]]):
            result = importlib.import_module(command.module).run(config)
        importlib.import_module("tokalign.report.summary").written(config, result)
        if result.unresolved:
            raise typer.Exit(UNRESOLVED)

    body.__signature__ = _signature(name, options)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: p.annotation for p in body.__signature__.parameters.values()}  # type: ignore[attr-defined]
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, cls=Grouped, help=command.about)(body)
    return typer.main.get_command(single)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"tokalign {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit. An error prints one line with the problem and one with the remedy."""
    signals.listen()
    sys.exit(_exit_code(app))


def _exit_code(command: Callable[[], Any]) -> int:
    """Run a command, print its error if it fails, and return the exit code."""
    try:
        command()
    except TokalignError as e:
        _print_error(e)
        return e.exit_code
    except OSError as e:  # such as a full disk or a missing permission
        _print_error(TokalignError(str(e)))
        return 1
    except Exception as e:
        if "os error" not in str(e):  # libraries written in Rust report a full disk like this
            raise
        _print_error(TokalignError(str(e)))
        return 1
    except SystemExit as e:  # Typer ends every command with SystemExit
        return e.code if isinstance(e.code, int) else 1
    return 0


def _print_error(error: TokalignError) -> None:
    from tokalign.report.text import safe

    typer.echo(f"tokalign: {safe(str(error))}", err=True)
    if error.remedy:
        typer.echo(f"  → {safe(error.remedy)}", err=True)
