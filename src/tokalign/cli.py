"""The command line: parse → config → stage → what was written. No logic lives here.

A command is made from a config dataclass: its fields become arguments and options, their ``about`` the help.
A value comes from the flag, else ``TOKALIGN_<COMMAND>_<OPTION>``, else ``TOKALIGN_<OPTION>``, else the
``[command]`` table of ``--config FILE.toml``, else the default.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tokalign import __version__, config
from tokalign.config import Knobs, is_required
from tokalign.errors import TokalignError, UsageError

app = typer.Typer(
    name="tokalign",
    help="Fine-grained alignment: minimal edits → token labels → token rewards → PPO at every token → win rate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, tuple[type[Knobs], str]] = {
    "playground": (config.PlaygroundConfig, "tokalign.stages.playground"),
    "edit": (config.EditConfig, "tokalign.stages.edit"),
    "diff": (config.DiffConfig, "tokalign.stages.diff"),
    "train-sft": (config.TrainSftConfig, "tokalign.stages.sft"),
    "train-rm": (config.TrainRmConfig, "tokalign.stages.reward"),
    "generate": (config.GenerateConfig, "tokalign.stages.generate"),
    "score": (config.ScoreConfig, "tokalign.stages.score"),
    "train-ppo": (config.TrainPpoConfig, "tokalign.stages.ppo"),
    "eval-winrate": (config.EvalWinrateConfig, "tokalign.stages.winrate"),
    "show": (config.ShowConfig, "tokalign.report.show"),
}
"""Each command's knobs, and the module whose ``run`` does the work (imported only then)."""


def _signature(command: str, knobs: type[Knobs]) -> inspect.Signature:
    hints = get_type_hints(knobs)
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    # Required options first, then the rest in the order in which they are declared.
    for f in sorted(fields(knobs), key=lambda f: not is_required(f)):
        names = [f"TOKALIGN_{command}_{f.name}", f"TOKALIGN_{f.name}"]
        envvar = [name.upper().replace("-", "_") for name in names]
        make = typer.Argument if f.metadata["positional"] else typer.Option
        option = make(help=f.metadata["about"], envvar=envvar, show_envvar=False)
        default: Any = inspect.Parameter.empty
        if not is_required(f):
            default = f.default
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
        known = {f.name.replace("_", "-") for f in fields(COMMANDS[table][0])}
        for key in values:
            if key not in known:
                raise UsageError(f"{path}: unknown key {key!r} in [{table}]", remedy=f"see tokalign {table} --help")
    mine = tables.get(ctx.info_name or "", {})
    ctx.default_map = {key.replace("-", "_"): value for key, value in mine.items()}
    return path


def _register(command: str, knobs: type[Knobs], module: str) -> None:
    def body(ctx: typer.Context, config_file: Path | None, **values: Any) -> None:
        settings = knobs(**values)
        result = importlib.import_module(module).run(settings)
        if command != "show":
            importlib.import_module("tokalign.report.summary").written(settings, result)

    body.__signature__ = _signature(command, knobs)  # type: ignore[attr-defined]
    body.__annotations__ = {p.name: p.annotation for p in body.__signature__.parameters.values()}  # type: ignore[attr-defined]
    app.command(command, help=knobs.__doc__)(body)


for _command, (_knobs, _module) in COMMANDS.items():
    _register(_command, _knobs, _module)


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
    sys.exit(_guarded(app))


def _guarded(command: Callable[[], Any]) -> int:
    try:
        command()
    except TokalignError as e:
        _complain(e)
        return e.exit_code
    except KeyboardInterrupt:
        typer.echo("tokalign: interrupted", err=True)
        return 130
    except SystemExit as e:  # how Typer ends a command
        return e.code if isinstance(e.code, int) else 1
    return 0


def _complain(error: TokalignError) -> None:
    from tokalign.report.text import safe

    typer.echo(f"tokalign: {safe(str(error))}", err=True)
    if error.remedy:
        typer.echo(f"  → {safe(error.remedy)}", err=True)
