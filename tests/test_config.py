"""Every option is documented, bounded, read by somebody, and the committed settings are made of options."""

import ast
import inspect
import json
import math
import re
import tomllib
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter

import tokalign
from tests.conftest import ROOT
from tokalign.config.commands import COMMANDS
from tokalign.config.options import Options, Role, StageOptions, is_required, option_name
from tokalign.config.stages import (
    EditConfig,
    EvalWinrateConfig,
    PlaygroundConfig,
    ShowConfig,
    TrainPpoConfig,
    TrainSftConfig,
)
from tokalign.errors import UsageError

SOURCE = Path(inspect.getfile(tokalign)).parent
OPTIONS = {name: command.load_options() for name, command in COMMANDS.items()}


def minimal(options: type[Options], **values: Any) -> Options:
    """The dataclass with something valid in every field that must be given."""
    hints, required = get_type_hints(options), {}
    for name, parameter in inspect.signature(options).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            kind = hints[name]
            given = {Path: Path("x"), str: "x", list[str]: ["a=b"], list[Path]: [Path("x")]}
            required[name] = get_args(kind)[0] if get_origin(kind) is Literal else given[kind]
    return options(**{**required, **values})


def bounds() -> list[Any]:
    """(dataclass, option, the bound itself, a value just outside), one for every bound of every command."""
    cases = []
    for command, options in OPTIONS.items():
        hints = get_type_hints(options)
        for f in fields(options):
            for side, sign in (("low", -1), ("high", 1)):
                bound = f.metadata[side]
                if bound is None:
                    continue
                whole = hints[f.name] in (int, int | None)
                outside = bound + sign if whole else math.nextafter(bound, sign * math.inf)
                cases.append(pytest.param(options, f.name, bound, outside, id=f"{command} {f.name} {side}"))
    return cases


def float_options() -> list[Any]:
    return [
        pytest.param(options, name, id=f"{command} {name}")
        for command, options in OPTIONS.items()
        for name, kind in get_type_hints(options).items()
        if kind is float
    ]


@cache
def owners_and_attributes(path: Path) -> set[tuple[str, str]]:
    """``owner.attribute`` wherever an attribute is read; of ``self.config.lr`` the owner is ``config``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            found.add((name, node.attr))
    return found


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_says_what_it_is_about(command: str) -> None:
    for f in fields(OPTIONS[command]):
        about = f.metadata["about"]
        assert about == about.strip() != "", f.name
        assert not about.endswith("."), f.name
        assert f.metadata["role"] in get_args(Role), f.name


@pytest.mark.parametrize("command", OPTIONS)
def test_defaults_are_valid_and_of_their_type(command: str) -> None:
    options = OPTIONS[command]
    made = minimal(options)
    for name, kind in get_type_hints(options).items():
        value = getattr(made, name)
        assert TypeAdapter(kind).validate_python(value, strict=True) == value, name


@pytest.mark.parametrize(("options", "name", "bound", "outside"), bounds())
def test_a_bound_is_accepted_and_a_value_just_outside_is_refused(
    options: type[Options], name: str, bound: float, outside: float
) -> None:
    assert getattr(minimal(options, **{name: bound}), name) == bound
    with pytest.raises(UsageError) as refused:
        minimal(options, **{name: outside})
    assert f"--{name.replace('_', '-')} is {outside}" in str(refused.value)
    assert str(bound) in refused.value.remedy


@pytest.mark.parametrize(("options", "name"), float_options())
def test_a_option_is_never_nan(options: type[Options], name: str) -> None:
    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} is nan"):
        minimal(options, **{name: math.nan})


def test_a_huge_whole_number_is_a_value_or_a_usage_error() -> None:
    try:
        assert StageOptions(out=Path("x"), seed=10**400).seed == 10**400
    except UsageError as e:
        assert "--seed" in str(e)


def test_a_option_is_named_as_it_is_typed() -> None:
    assert {"ARTIFACT", "--id", "--limit", "--json"} < set(map(option_name, fields(ShowConfig)))
    assert "--min-similarity" in map(option_name, fields(EditConfig))


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_is_read(command: str) -> None:
    """By the command's own module, or by one that serves several commands; never by another command's alone."""
    options = OPTIONS[command]
    others = {other.module for name, other in COMMANDS.items() if name != command}
    read = set()
    for path in SOURCE.rglob("*.py"):
        module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        if module not in others and module != "tokalign.config.stages":
            read |= {name for owner, name in owners_and_attributes(path) if owner in ("config", "options", "k", "how")}
    unread = [f.name for f in fields(options) if f.name not in read]
    assert unread == []


def test_options_cannot_be_changed() -> None:
    made = minimal(PlaygroundConfig)
    with pytest.raises(FrozenInstanceError):
        made.seed = 1  # type: ignore[attr-defined]


def test_select_takes_the_options_of_a_role_as_plain_values() -> None:
    made = PlaygroundConfig(out=Path("runs") / "x", preferences=3, seed=7, quiet=True)
    sizes = {"preferences": 3, "sft": 6000, "prompts": 2560, "heldout": 256, "test": 1024}
    assert made.select("rows") == {"limit": None, "seed": 7, "loose": 0.0, **sizes}
    assert made.select("out") == {"out": str(Path("runs") / "x")}
    assert type(made.select("out")["out"]) is str
    probing = {"probe_seconds": 4.0, "probe_memory": 1024}
    assert made.select("run", "out") == {"out": "runs/x", "fresh": False, "json": False, "quiet": True, **probing}
    assert made.select() == {}


def test_paths_are_inputs_or_outputs_never_compared_by_their_spelling() -> None:
    made = minimal(EvalWinrateConfig, prompts="x", candidate=["a=b"], reference="x", rubric=Path("r"))
    rest: dict[str, Any] = {"revision": None, "subset": None, "split": "train", "reward_model": [], "judgements": None}
    rest |= {"annotations": None, "difficulty": None, "prompt": []}
    given = {"prompts": "x", "candidate": ["a=b"], "reference": "x", "rubric": "r"}
    assert made.select("input") == {**given, **rest}
    assert not {"prompts", "candidate", "reference", "out"} & set(made.select("rows"))


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_has_one_role_and_goes_into_json(command: str) -> None:
    options = OPTIONS[command]
    made = minimal(options)
    selected = [made.select(role) for role in get_args(Role)]
    names = [name for part in selected for name in part]
    assert sorted(names) == sorted(f.name for f in fields(options))
    assert [json.loads(json.dumps(part)) for part in selected] == selected


@pytest.mark.parametrize("settings", ["playground", "experiments"])
def test_the_playground_settings_are_made_of_options(settings: str) -> None:
    tables = tomllib.loads((ROOT / "configs" / f"{settings}.toml").read_text(encoding="utf-8"))
    assert tables
    for command, values in tables.items():
        options, given = OPTIONS[command], {key.replace("-", "_"): value for key, value in values.items()}
        hints = get_type_hints(options)
        for key, value in given.items():
            assert "_" not in key or key.replace("_", "-") in values, f"[{command}] {key} is spelt with hyphens"
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        made = minimal(options, **given)
        assert {key: getattr(made, key) for key in given} == given


def test_one_value_serves_where_several_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from tokalign.artifacts.result import StageResult
    from tokalign.cli import app
    from tokalign.config import stages

    seen: list[Any] = []

    def run(config: Any) -> StageResult:
        seen.append(config)
        return StageResult()

    module = type("Module", (), {"run": staticmethod(run), "written": staticmethod(lambda *_: None)})
    monkeypatch.setattr(importlib, "import_module", lambda name: stages if name == "tokalign.config.stages" else module)
    for value, expected in (('"rm"', ["rm"]), ('["rm", "m:f"]', ["rm", "m:f"])):
        (tmp_path / "c.toml").write_text(f"[train-ppo]\nreward-model = {value}\nreward-weight = 0.5\n")
        line = ["train-ppo", "p", "--policy", "x", "--out", str(tmp_path / "o"), "--config", str(tmp_path / "c.toml")]
        app(line, standalone_mode=False)
        assert (seen[-1].reward_model, seen[-1].reward_weight) == (expected, [0.5])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"editor": "typo"}, "--editor is 'typo'"),
        ({"min_similarity": "0.3"}, "--min-similarity is '0.3'"),
        ({"limit": 1.5}, "--limit is 1.5"),
        ({"limit": True}, "--limit is True"),
        ({"fresh": 1}, "--fresh is 1"),
        ({"source": Path("x")}, "SOURCE is"),
        ({"out": "x"}, "--out is 'x'"),
        ({"prompt": "x"}, "--prompt is 'x'"),
        ({"seed": None}, "--seed is None"),
    ],
)
def test_a_value_of_another_type_is_refused_at_construction(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as e:
        EditConfig(**{"source": "x", "out": Path("y"), **given})
    assert e.value.remedy.startswith("give ")
    assert EditConfig(source="x", out=Path("y"), limit=None, max_cost=3, min_similarity=1).max_cost == 3


def test_choices_are_named() -> None:
    with pytest.raises(UsageError) as e:
        EditConfig(source="x", out=Path("y"), editor="typo")  # type: ignore[arg-type]
    assert e.value.remedy == "give one of rules, recorded, claude, human"
    with pytest.raises(UsageError, match="--reward-model is 'rm'"):
        TrainPpoConfig(prompts="x", policy="p", reward_model="rm", out=Path("y"))  # type: ignore[arg-type]


def test_defaults_hold_lists_too() -> None:
    """An option that an older version did not have counts as its default, whatever its type."""
    assert TrainSftConfig.defaults()["template_arg"] == []
    assert all(f.name in TrainSftConfig.defaults() for f in fields(TrainSftConfig) if not is_required(f))


@pytest.mark.parametrize(
    ("options", "lr"),
    [({}, 1e-6), ({"lora": True}, 2e-4), ({"lora": True, "lr": 1e-6}, 1e-6), ({"lr": 0.5}, 0.5), ({"lr": 0}, 0)],
)
def test_learning_rates_are_larger_with_lora_unless_one_is_given(options: dict[str, Any], lr: float) -> None:
    config = TrainPpoConfig(prompts="x", policy="p", reward_model=["rm"], out=Path("y"), **options)
    assert config.lr == lr
    assert config.select("rows")["lr"] == lr
    assert config.value_lr == (1e-3 if config.lora else 5e-6)
