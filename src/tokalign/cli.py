"""The command line: parse → config → stage → what was written. No logic lives here.

A command is made from a config dataclass: its fields become arguments and options, their ``about`` the help.
A value comes from the flag, else ``TOKALIGN_<COMMAND>_<OPTION>``, else ``TOKALIGN_<OPTION>``, else the
``[command]`` table of ``--config FILE.toml``, else the default.
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
"""Exit code of a run that finished with rows that failed, or with nothing that can be used."""


class Grouped(TyperCommand):
    """A command whose help shows its options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options, by panel, in the order of the panels; required ones come first in each."""
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
    """Builds a command only when it is asked for, so that ``--help`` is instant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A command by its name; of one that there is not, the likeliest that was meant is named."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            alike = difflib.get_close_matches(args[0], COMMANDS, 1, 0.5)
            meant = f"did you mean {alike[0]!r}?" if alike else "see tokalign --help"
            raise UsageError(f"no such command: {args[0]!r}", remedy=meant)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One command, with all its options."""
        return _build(cmd_name, COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list that help shows."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.about) for name, command in COMMANDS.items()])


app = typer.Typer(
    name="tokalign",
    cls=Commands,
    help="Fine-grained alignment: minimal edits → token labels → token rewards → PPO at every token → win rate.",
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
    # Required options first, then the rest in the order in which they are declared.
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
        help="TOML file with a table per command",
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
    """Make a TOML table the defaults of its command. Unknown tables and keys are errors."""
    if path is None:
        return None
    import tomllib

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not TOML: {e}") from e
    for table, values in tables.items():
        if table not in COMMANDS or not isinstance(values, dict):
            raise UsageError(f"{path}: unknown table [{table}]", remedy=f"tables are {', '.join(COMMANDS)}")
        known = {f.name.replace("_", "-") for f in fields(COMMANDS[table].load_options())}
        for key in values:
            if key not in known:
                raise UsageError(f"{path}: unknown key {key!r} in [{table}]", remedy=f"see tokalign {table} --help")
    mine = {key.replace("-", "_"): value for key, value in tables.get(ctx.info_name or "", {}).items()}
    hints = get_type_hints(COMMANDS[ctx.info_name].load_options()) if mine and ctx.info_name else {}
    several = {key for key in mine if get_origin(hints[key]) is list}  # one value is a list of one
    ctx.default_map = {k: [v] if k in several and not isinstance(v, list) else v for k, v in mine.items()}
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
        if result is not None:  # nothing to look at, or another process tells of it
            importlib.import_module("tokalign.report.summary").written(config, result)
        if getattr(result, "unresolved", False):
            raise typer.Exit(UNRESOLVED)

    body.__signature__ = _signature(name, options)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: p.annotation for p in body.__signature__.parameters.values()}  # type: ignore[attr-defined]
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(name, cls=Grouped, help=command.about)(body)
    return typer.main.get_command(alone)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tokalign {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: run a command; errors become one line of what and one of what to do."""
    signals.listen()
    sys.exit(_guarded(app))


def _guarded(command: Callable[[], Any]) -> int:
    try:
        command()
    except TokalignError as e:
        _complain(e)
        return e.exit_code
    except OSError as e:  # a full disk, a path that may not be read
        _complain(TokalignError(str(e)))
        return 1
    except Exception as e:
        if "os error" not in str(e):  # how libraries written in Rust tell of a full disk
            raise
        _complain(TokalignError(str(e)))
        return 1
    except SystemExit as e:  # how Typer ends a command
        return e.code if isinstance(e.code, int) else 1
    return 0


def _complain(error: TokalignError) -> None:
    from tokalign.report.text import safe

    typer.echo(f"tokalign: {safe(str(error))}", err=True)
    if error.remedy:
        typer.echo(f"  → {safe(error.remedy)}", err=True)
