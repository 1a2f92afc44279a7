"""What is asked of a chat template is written into it, so that whatever is made with it later reads prompts alike.

Variables (``--template-arg``), what becomes of a system turn where a template has none (``--system``), the day that it
is told (``--template-date``) and the form in which it wants contents stand in front of the template, after a comment
that records them. The template is saved with the tokenizer: SFT, labels, reward models and PPO cannot differ.
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
"""A template and turns to text, up to where the response begins; raises whatever the template does."""

TINY_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Of the tokenizers that are learnt here: it takes any turns."""
_HEAD = re.compile(r"\{#- tokalign (\{.*?\}) -#\}", re.DOTALL)
_FORMS = (*"aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ", "-d", "-m", "-H", "-I", "-M", "-S", "-j")
"""What a day or an hour is written by, after a percent sign."""
_PARTS = (
    "{%- set rewritten = namespace(turns=[]) %}{%- for turn in messages %}{%- set rewritten.turns = rewritten.turns + "
    "[dict(turn, content=[{'type': 'text', 'text': turn['content']}] if turn['content'] is string else "
    "turn['content'])] %}{%- endfor %}{%- set messages = rewritten.turns %}"
)
_SYSTEM = {
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
_END = "{{- '' }}"
"""What follows is then the same as at the beginning of a template: after a block, a line break would be lost."""
_ASK, _SAY, _RULE = "tokalignquestion", "tokalignanswer", "tokalignrule"
_USER = {"role": "user", "content": _ASK}


@dataclass(frozen=True)
class Prepared:
    """A template with what was asked of it."""

    template: str
    settings: dict[str, Any] = field(default_factory=dict)
    """``args``, ``system``, ``date``, ``parts``: those that matter for this template."""


def choose(found: Any, source: str) -> str | None:
    """The template to use, where a tokenizer has one, several by name, or none.

    Raises:
        InputError: there are several, and none is the default.
    """
    if isinstance(found, list):  # how older releases of transformers wrote several
        found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
    if isinstance(found, dict):
        if "default" not in found:
            raise InputError(
                f"it has several chat templates, {', '.join(map(repr, found))}, and none called 'default'",
                where=source,
                field="chat_template",
                remedy="name the one to use 'default' in the folder's tokenizer_config.json",
            )
        found = found["default"]
    return found if isinstance(found, str) and found else None


def prepare(
    template: str, options: TemplateOptions, render: Render, source: str, *, from_artifact: bool = False
) -> Prepared:
    """Write what is asked for into a template, unless that was done before.

    Args:
        template: as it is.
        options: what is asked for.
        render: renders turns.
        source: of the template, for messages.
        from_artifact: whether it is of an artifact, for which this was settled as it was made.

    Raises:
        UsageError: a variable that the template does not have, or something else was asked of it before.
    """
    args, known = arguments(options.template_arg), recorded(template)
    if known is not None or from_artifact:
        settings = known or {}
        _refuse_change(args, settings.get("args", {}), "--template-arg", source)
        if options.system and "system" in settings:
            _refuse_change({"system": options.system}, {"system": settings["system"]}, "--system", source)
        return Prepared(template, settings)
    if unknown := [name for name in args if not re.search(rf"\b{re.escape(name)}\b", template)]:
        raise UsageError(f"the chat template of {source} has no {unknown[0]!r}", remedy="see its chat_template")
    settings = {"args": args} if args else {}
    plain = re.sub(r"\A[ \t]+(?=\{[%#])", "", template)  # stripped at the beginning of a line, which this will not be
    front = "".join(f"{{%- set {name} = {_literal(value)} %}}" for name, value in args.items())
    if "strftime_now" in template:
        settings["date"], front = options.template_date, front + _day(options)
    if not _reads(render, front + _END + plain, [_USER]) and _reads(render, front + _PARTS + _END + plain, [_USER]):
        settings["parts"], front = True, front + _PARTS
    alone, ruled = [_USER], [{"role": "system", "content": _RULE}, _USER]
    if _reads(render, front + _END + plain, alone) and not _reads(render, front + _END + plain, ruled):
        settings["system"] = options.system or "fold"
        front = _SYSTEM[settings["system"]] + front
    if not settings:
        return Prepared(template)
    written = json.dumps(settings).replace("#}", "#\\u007d")  # which would end the comment
    return Prepared(f"{{#- tokalign {written} -#}}{front}{_END}{plain}", settings)


def recorded(template: str) -> dict[str, Any] | None:
    """What was written into a template, if it was; None for a template of others, whatever it begins with."""
    if not (head := _HEAD.match(template)):
        return None
    try:
        settings = json.loads(head[1])
    except ValueError:
        return None
    kinds = {"args": dict, "system": str, "date": str, "parts": bool}
    known = isinstance(settings, dict) and all(isinstance(v, kinds.get(k, ())) for k, v in settings.items())
    return settings if known and settings.get("system", "fold") in _SYSTEM else None


def arguments(given: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as a mapping; a value that is JSON (``false``, ``3``) is that, another is text.

    Raises:
        UsageError: one is not of that form.
    """
    found: dict[str, Any] = {}
    for one in given:
        key, sep, value = one.partition("=")
        if not sep or not key.isidentifier():
            raise UsageError(f"--template-arg {one!r}", remedy="give KEY=VALUE, such as enable_thinking=false")
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise UsageError(f"--template-arg {key} holds half a character", remedy="give text that can be encoded")
        if key in ("messages", "add_generation_prompt"):
            raise UsageError(f"--template-arg {key} is not for you to set", remedy="leave it out")
        try:
            found[key] = json.loads(value if value not in ("True", "False") else value.lower())
        except ValueError:
            found[key] = value
    return found


def lost(turns: Turns, text: str) -> str | None:
    """The role of a turn whose content is not in what a template made of it, white space aside; None: all are there.

    Of an answer only what follows its thoughts is looked for: templates leave those out.
    """
    for turn in turns:
        said = turn["content"]
        if turn["role"] == "assistant":
            said = said.rpartition("</think>")[2]
        said = said.strip()
        if said and said not in text and not any("".join(one.split()) in "".join(text.split()) for one in _spelt(said)):
            return str(turn["role"])
    return None


def _spelt(said: str) -> Iterator[str]:
    """A content as templates write it: as it is, as JSON, as HTML."""
    yield said
    yield json.dumps(said, ensure_ascii=False)[1:-1]
    yield json.dumps(said)[1:-1]
    yield html.escape(said)
    yield str(escape(said))


def thinks(text: str) -> bool:
    """Whether a rendered prompt ends within thoughts that it has opened."""
    return text.rfind("<think>") > text.rfind("</think>")


def _reads(render: Render, template: str, turns: Turns) -> bool:
    try:
        return lost(turns, render(template, turns)) is None
    except Exception:  # a template is a program of somebody else's
        return False


def _refuse_change(now: dict[str, Any], before: dict[str, Any], option: str, source: str) -> None:
    if now and now != before:
        said = ", ".join(f"{k}={json.dumps(v)}" for k, v in before.items()) or "none"
        raise UsageError(
            f"{option} {', '.join(f'{k}={json.dumps(v)}' for k, v in now.items())}: {source} was made with {said}",
            remedy="leave it out: what a model was made with is written in its chat template",
        )


def _literal(value: Any) -> str:
    """A value as Jinja reads it within a block."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _day(options: TemplateOptions) -> str:
    """A macro in place of the function that tells templates the day: it knows one only."""
    try:
        told = date.fromisoformat(options.template_date)
    except ValueError as e:
        raise UsageError(f"--template-date {options.template_date}: {first_line(e)}", remedy="give YYYY-MM-DD") from e
    moment = datetime.combine(told, time())
    filled = "".join(f" | replace('%{form}', {json.dumps(moment.strftime(f'%{form}'))})" for form in _FORMS)
    return f"{{%- macro strftime_now(format) %}}{{{{- format{filled} | replace('%%', '%') }}}}{{%- endmacro %}}"
