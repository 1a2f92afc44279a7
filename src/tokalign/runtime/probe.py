"""Opens a file that somebody else made, in a process of its own that may not take much, and says what it is worth.

    python probe.py KIND PATH SECONDS MEGABYTES

Run by :mod:`tokalign.runtime.sandbox`, by its path: it imports nothing of tokalign, so that it starts at once. It
prints one JSON object: ``problem``, empty where there is none. Whatever ends it before is the file's doing.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROWS = 256
"""Rows of a table that are expanded at a time."""
BATCH = 128 * 1024 * 1024
"""Bytes that they may take then."""
MANY = 1_000_000
"""Rows that any table may have; beyond it, as many as the file has bytes: what repeats more says nothing."""


class BadTableError(ValueError):
    """A table that would take more than it should, or has columns of a type that is not read."""


def batches(path: Path, kind: str) -> Iterator[Any]:
    """The rows of an Arrow or Parquet file, some at a time, each batch checked before it is given out.

    Raises:
        BadTableError: it would take too much, or has columns of a type that is not read.
        pyarrow.ArrowException, OSError, UnicodeDecodeError: it is damaged.
    """
    import pyarrow as pa

    left = max(MANY, path.stat().st_size)
    for whole in _parquet(path) if kind == "parquet" else _arrow(path):
        left -= whole.num_rows
        if left < 0:
            raise BadTableError("more rows than bytes: it would take too long to read")
        whole.validate(full=True)
        for start in range(0, whole.num_rows, ROWS):
            batch = whole.slice(start, ROWS)
            columns = []
            for column in batch.columns:
                _check_type(column.type)
                if pa.types.is_dictionary(column.type):
                    _check_dictionary(column)
                    column = column.dictionary_decode()  # noqa: PLW2901
                columns.append(column)
            if sum(column.nbytes for column in columns) > BATCH:
                raise BadTableError(f"{batch.num_rows} rows take more than {BATCH >> 20} MB")
            yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            yield from (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            source.seek(0)
            yield from pa.ipc.open_stream(source)


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > max(MANY, path.stat().st_size):
            raise BadTableError("more rows than bytes: it would take too long to read")
        yield from file.iter_batches(batch_size=ROWS, use_threads=False)


def _check_type(kind: Any, depth: int = 0) -> None:
    """Refuse types in which many values can share their bytes: a small file of them can stand for anything."""
    import pyarrow as pa

    t = pa.types
    plain = (
        t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_decimal, t.is_temporal,
        t.is_string, t.is_large_string, t.is_binary, t.is_large_binary, t.is_fixed_size_binary,
    )  # fmt: skip
    nested = (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_struct, t.is_map)
    if depth > 32 or not any(of(kind) for of in (*plain, *nested, *([] if depth else [t.is_dictionary]))):
        raise BadTableError(f"a column of type {str(kind)[:80]}, which is not read")
    if any(of(kind) for of in nested):
        for k in range(kind.num_fields):
            _check_type(kind.field(k).type, depth + 1)
    elif t.is_dictionary(kind):
        _check_type(kind.value_type, depth + 1)


def _check_dictionary(column: Any) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.dictionary
    if len(values) and (pa.types.is_string(values.type) or pa.types.is_binary(values.type)):
        longest = pc.max(pc.binary_length(values)).as_py() or 0
    else:
        longest = values.nbytes
    if longest * len(column) > BATCH:
        raise BadTableError(f"{len(column)} rows take more than {BATCH >> 20} MB")


def _table(path: Path, kind: str) -> str:
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    try:
        for batch in batches(path, kind):
            for name in batch.schema.names:
                name.encode()
    except BadTableError as e:
        return str(e)
    except (pa.ArrowMemoryError, MemoryError):
        raise MemoryError from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        return f"not a whole {'Parquet' if kind == 'parquet' else 'Arrow'} file: {str(e).splitlines()[0]}"
    return ""


# ── tokenizers and chat templates ────────────────────────────────────────────────────────────────────

_ASCII = "".join(map(chr, range(32, 127)))
_SAMPLES = (
    _ASCII, " ".join(_ASCII), "a" * 2000 + "!", " " * 2000 + "x", "\n" * 500, "0" * 2000 + "x", "aA" * 1000 + "!",
    "\t a" * 500, "-" * 2000, "é" * 500, "The quick brown fox jumps over the lazy dog. " * 40, "中文字" * 300,
    "👩\u200d👩\u200d👧" * 50, "\u0301" * 500, "ﬁ\u2028\u00a0İ",
)  # fmt: skip
"""Texts on which a pattern that tries everything, or a rule that makes much of little, shows."""
_LONGEST = 200
"""Ids, or characters of the normalised text, a byte."""


def _tokenizer(folder: Path) -> str:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if file.exists():
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as e:  # the library raises nothing narrower
            return f"not a tokenizer: {str(e).splitlines()[0][:200] if str(e) else 'damaged'}"
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for text in _SAMPLES:
            try:
                found = tokenizer.encode(text, add_special_tokens=False)
                tokenizer.decode(found.ids[:500])
            except Exception as e:
                return f"the tokenizer cannot read {text[:20]!r}: {str(e)[:200]}"
            if len(found.ids) > _LONGEST * len(text.encode()):
                return f"the tokenizer makes {len(found.ids)} ids of {len(text)} characters"
    for template in _templates(folder):
        _render(template)
    return ""


def _templates(folder: Path) -> Iterator[str]:
    for file in (folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))):
        if file.is_file():
            yield file.read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    named = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]
    for one in named:
        text = one.get("template") if isinstance(one, dict) else one
        if isinstance(text, str):
            yield text


def _render(template: str) -> None:
    """Render a short talk. What goes wrong in it is told by whoever renders for good; here only death counts."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # marks what a model says; of transformers
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, default=str)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda _: "01 Jan 2026"}
    user, said = {"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}
    for turns in ([user], [user, said], [{"role": "system", "content": "Rules."}, user, said, user]):
        try:
            made = environment.from_string(template).render(
                messages=turns, add_generation_prompt=turns[-1] is user, bos_token="<s>", eos_token="</s>"
            )
        except MemoryError:
            raise
        except Exception:  # a template may refuse such turns
            continue
        if len(made) > 10_000_000:
            raise MemoryError


def _limit(seconds: float, megabytes: int) -> None:
    import resource

    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, max(1, round(seconds))),
        (resource.RLIMIT_DATA, megabytes << 20),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)  # noqa: PLW2901
        resource.setrlimit(what, (most, hard if what == resource.RLIMIT_CPU else most))


KINDS: dict[str, Callable[[Path], str]] = {
    "arrow": lambda path: _table(path, "arrow"),
    "parquet": lambda path: _table(path, "parquet"),
    "tokenizer": _tokenizer,
}


def main() -> None:
    """See the module."""
    kind, path, seconds, megabytes = sys.argv[1:]
    _limit(float(seconds), int(megabytes))
    try:
        problem = KINDS[kind](Path(path))
    except MemoryError:
        problem = f"it needs more than {megabytes} MB of memory to open"
    except RecursionError:
        problem = "nested too deeply"
    print(json.dumps({"problem": problem}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
