"""Chat template settings, written into the template so that every later stage renders prompts alike.

A prefix sets the variables (``--template-arg``), handles a system turn that the template does not support
(``--system``), fixes the date (``--template-date``) and converts contents to parts if the template expects them. A
comment before the prefix records the settings. The template is saved with the tokenizer, so SFT, labels, reward models
and PPO use the same one.
"""

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from markupsafe import escape

from tokalign.config.options import TemplateOptions
from tokalign.errors import InputError, UsageError, first_line

Turns = Sequence[Mapping[str, Any]]
Render = Callable[[str, Turns], str]
"""Renders turns with a template, up to where the response begins. Raises whatever the template raises."""

TINY_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Template of tokenizers from :mod:`tokalign.models.tiny_tokenizer`. It accepts any turns."""
_HEADER = re.compile(r"\{#- tokalign (\{.*?\}) -#\}", re.DOTALL)
_STRFTIME_CODES = (*"aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ", "-d", "-m", "-H", "-I", "-M", "-S", "-j")
"""Format codes of ``strftime``, without the percent sign."""
_TO_PARTS = (
    "{%- set rewritten = namespace(turns=[]) %}{%- for turn in messages %}{%- set rewritten.turns = rewritten.turns + "
    "[dict(turn, content=[{'type': 'text', 'text': turn['content']}] if turn['content'] is string else "
    "turn['content'])] %}{%- endfor %}{%- set messages = rewritten.turns %}"
)
_SYSTEM_PREFIXES = {
    "fold": (
        "{%- if messages and messages[0]['role'] == 'system' %}"
        "{%- if messages | length > 1 and messages[1]['role'] == 'user' %}"
        "{%- set messages = [dict(messages[1], content=messages[0]['content'] + '\\n\\n' + messages[1]['content'])] "
        "+ messages[2:] %}"
        "{%- else %}{%- set messages = [dict(messages[0], role='user')] + messages[1:] %}{%- endif %}{%- endif %}"
    ),
    "drop": ("{%- if messages and messages[0]['role'] == 'system' %}{%- set messages = messages[1:] %}{%- endif %}"),
    "refuse": (
        "{%- if messages and messages[0]['role'] == 'system' %}"
        "{{- raise_exception('it has no system turn (--system fold or drop)') }}{%- endif %}"
    ),
}
_PREFIX_END = "{{- '' }}"
"""Ends the prefix: Jinja drops a line break after a block but keeps it after an expression."""
_QUESTION, _RULE = "tokalignquestion", "tokalignrule"
_USER = {"role": "user", "content": _QUESTION}


@dataclass(frozen=True)
class Prepared:
    """A chat template and the settings written into it."""

    template: str
    settings: dict[str, Any] = field(default_factory=dict)
    """``args``, ``system``, ``date`` and ``parts``: only those that affect this template."""


def select_template(found: Any, source: str) -> str | None:
    """Select the chat template of a tokenizer.

    Args:
        found: the tokenizer's ``chat_template``: one template, several by name, or None.
        source: where the tokenizer comes from, for messages.

    Returns:
        The only template or the one named ``default``; None if there is no template.

    Raises:
        InputError: there are several templates and none is named ``default``.
    """
    if isinstance(found, list):  # format of older transformers releases
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
    if isinstance(found, dict):
        if "default" not in found:
            raise InputError(
                f"several chat templates, {', '.join(map(repr, found))}, but none named 'default'",
                where=source,
                field="chat_template",
                remedy="rename the template to use to 'default' in the folder's tokenizer_config.json",
            )
        found = found["default"]
    return found if isinstance(found, str) and found else None


def prepare(
    template: str, options: TemplateOptions, render: Render, source: str, *, from_artifact: bool = False
) -> Prepared:
    """Write chat template options into a template.

    The template of an artifact, or one with recorded settings, is returned unchanged.

    Args:
        template: the tokenizer's template.
        options: the requested settings.
        render: renders turns with a template.
        source: where the tokenizer comes from, for messages.
        from_artifact: whether the tokenizer belongs to an artifact; its settings are then fixed.

    Returns:
        The template with its settings.

    Raises:
        UsageError: the template does not use a variable, its fixed settings differ from the requested ones, or an
            option is malformed.
    """
    args, known = arguments(options.template_arg), recorded(template)
    if known is not None or from_artifact:
        settings = known or {}
        _refuse_change(args, settings.get("args", {}), "--template-arg", source)
        if options.system and "system" in settings:
            _refuse_change({"system": options.system}, {"system": settings["system"]}, "--system", source)
        return Prepared(template, settings)
    if unknown := [name for name in args if not re.search(rf"\b{re.escape(name)}\b", template)]:
        raise UsageError(
            f"the chat template of {source} has no variable {unknown[0]!r}",
            remedy="use a variable of its chat_template, or remove --template-arg",
        )
    settings = {"args": args} if args else {}
    plain = re.sub(r"\A[ \t]+(?=\{[%#])", "", template)  # Jinja strips it only at the start of a line
    prefix = "".join(f"{{%- set {name} = {_literal(value)} %}}" for name, value in args.items())
    if "strftime_now" in template:
        settings["date"], prefix = options.template_date, prefix + _date_macro(options)
    rest = _PREFIX_END + plain
    if not _renders(render, prefix + rest, [_USER]) and _renders(render, prefix + _TO_PARTS + rest, [_USER]):
        settings["parts"], prefix = True, prefix + _TO_PARTS
    user_only, with_system = [_USER], [{"role": "system", "content": _RULE}, _USER]
    if _renders(render, prefix + rest, user_only) and not _renders(render, prefix + rest, with_system):
        settings["system"] = options.system or "fold"
        prefix = _SYSTEM_PREFIXES[settings["system"]] + prefix
    if not settings:
        return Prepared(template)
    record = json.dumps(settings).replace("#}", "#\\u007d")  # "#}" would end the comment
    return Prepared(f"{{#- tokalign {record} -#}}{prefix}{rest}", settings)


def recorded(template: str) -> dict[str, Any] | None:
    """Read the settings that :func:`prepare` wrote into a template; None if it did not write the template."""
    if not (header := _HEADER.match(template)):
        return None
    try:
        settings = json.loads(header[1])
    except ValueError:
        return None
    kinds = {"args": dict, "system": str, "date": str, "parts": bool}
    known = isinstance(settings, dict) and all(isinstance(v, kinds.get(k, ())) for k, v in settings.items())
    return settings if known and settings.get("system", "fold") in _SYSTEM_PREFIXES else None


def arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` arguments. A value that is valid JSON (``false``, ``3``) is parsed, any other is text.

    Raises:
        UsageError: an argument is malformed, sets a reserved variable, or contains a lone surrogate.
    """
    found: dict[str, Any] = {}
    for argument in pairs:
        key, sep, value = argument.partition("=")
        if not sep or not key.isidentifier():
            raise UsageError(
                f"invalid --template-arg {argument!r}",
                remedy="use KEY=VALUE with a variable name as KEY, such as enable_thinking=false",
            )
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise UsageError(
                f"--template-arg {key}={value!r} contains a lone surrogate", remedy="use valid Unicode text"
            )
        if key in ("messages", "add_generation_prompt"):
            raise UsageError(f"--template-arg {key}: tokalign sets this variable itself", remedy="remove the option")
        try:
            found[key] = json.loads(value if value not in ("True", "False") else value.lower())
        except ValueError:
            found[key] = value
    return found


def missing_role(turns: Turns, text: str) -> str | None:
    """Find the first turn whose content is missing from a rendered template; white space is ignored.

    For an assistant turn only the text after its thinking must be present, because templates drop the thinking.

    Returns:
        The role of the turn, or None if all contents are present.
    """
    for turn in turns:
        content = turn["content"]
        if turn["role"] == "assistant":
            content = content.rpartition("</think>")[2]
        content = content.strip()
        if not content or content in text:
            continue
        if not any("".join(form.split()) in "".join(text.split()) for form in _escaped_forms(content)):
            return str(turn["role"])
    return None


def _escaped_forms(content: str) -> Iterator[str]:
    """The forms in which templates write a content: verbatim, as JSON, as HTML."""
    yield content
    yield json.dumps(content, ensure_ascii=False)[1:-1]
    yield json.dumps(content)[1:-1]
    yield html.escape(content)
    yield str(escape(content))


def ends_inside_thinking(text: str) -> bool:
    """Whether a rendered prompt ends inside an open ``<think>`` block."""
    return text.rfind("<think>") > text.rfind("</think>")


def _renders(render: Render, template: str, turns: Turns) -> bool:
    try:
        return missing_role(turns, render(template, turns)) is None
    except Exception:  # templates are third-party code and may raise anything
        return False


def _refuse_change(requested: dict[str, Any], fixed: dict[str, Any], option: str, source: str) -> None:
    if requested and requested != fixed:
        rejected, kept = (", ".join(f"{k}={json.dumps(v)}" for k, v in d.items()) for d in (requested, fixed))
        raise UsageError(
            f"cannot apply {option} {rejected}: {source} was made with {kept or 'none'}",
            remedy="remove the option: the settings of a trained model are fixed in its chat template",
        )


def _literal(value: Any) -> str:
    """A JSON value as a Jinja literal."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _date_macro(options: TemplateOptions) -> str:
    """A Jinja macro that replaces ``strftime_now`` and formats the fixed date of ``options``."""
    try:
        day = date.fromisoformat(options.template_date)
    except ValueError as e:
        raise UsageError(f"--template-date {options.template_date}: {first_line(e)}", remedy="give YYYY-MM-DD") from e
    moment = datetime.combine(day, time())
    filled = "".join(f" | replace('%{code}', {json.dumps(moment.strftime(f'%{code}'))})" for code in _STRFTIME_CODES)
    return f"{{%- macro strftime_now(format) %}}{{{{- format{filled} | replace('%%', '%') }}}}{{%- endmacro %}}"
