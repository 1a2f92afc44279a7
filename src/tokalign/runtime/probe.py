"""Check an untrusted file in a separate process with limits of CPU time and memory.

    python probe.py KIND PATH SECONDS MEGABYTES

:mod:`tokalign.runtime.sandbox` runs this file by its path. It imports nothing from tokalign, so that it starts fast. It
prints a JSON object with the key ``problem``, which is empty if the file is fine. A crash means that the file is bad.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROWS = 256
"""Number of rows of a table that are expanded at a time."""
BATCH = 128 * 1024 * 1024
"""Maximum size of these rows in bytes."""
MAX_ROWS = 1_000_000
"""Number of rows that is always allowed; larger tables may have at most one row per byte of the file."""


class BadTableError(ValueError):
    """The table exceeds the limits, or a column has an unsupported type."""


def batches(path: Path, kind: str) -> Iterator[Any]:
    """Yield the rows of an Arrow or Parquet file as ``pyarrow.RecordBatch`` objects, each checked first.

    Args:
        path: path of the file.
        kind: ``"parquet"`` or ``"arrow"``.

    Raises:
        BadTableError: the table exceeds the limits, or a column has an unsupported type.
        pyarrow.ArrowException, OSError, UnicodeDecodeError: the file is damaged.
    """
    import pyarrow as pa

    rows_left = max(MAX_ROWS, path.stat().st_size)
    for whole in _parquet(path) if kind == "parquet" else _arrow(path):
        rows_left -= whole.num_rows
        if rows_left < 0:
            raise BadTableError("too many rows for the size of the file")
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
                raise BadTableError(f"{batch.num_rows} rows need more than {BATCH >> 20} MB")
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
        if file.metadata.num_rows > max(MAX_ROWS, path.stat().st_size):
            raise BadTableError("too many rows for the size of the file")
        yield from file.iter_batches(batch_size=ROWS, use_threads=False)


def _check_type(kind: Any, depth: int = 0) -> None:
    """Refuse types in which many values share their bytes: a small file could expand to any size."""
    import pyarrow as pa

    t = pa.types
    plain = (
        t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_decimal, t.is_temporal,
        t.is_string, t.is_large_string, t.is_binary, t.is_large_binary, t.is_fixed_size_binary,
    )  # fmt: skip
    nested = (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_struct, t.is_map)
    if depth > 32 or not any(of(kind) for of in (*plain, *nested, *([] if depth else [t.is_dictionary]))):
        raise BadTableError(f"unsupported column type {str(kind)[:80]}")
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
        raise BadTableError(f"{len(column)} rows need more than {BATCH >> 20} MB")


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
        return f"not a complete {'Parquet' if kind == 'parquet' else 'Arrow'} file: {str(e).splitlines()[0]}"
    return ""


# ── tokenizers and chat templates ────────────────────────────────────────────────────────────────────

_ASCII = "".join(map(chr, range(32, 127)))
_SAMPLES = (
    _ASCII, " ".join(_ASCII), "a" * 2000 + "!", " " * 2000 + "x", "\n" * 500, "0" * 2000 + "x", "aA" * 1000 + "!",
    "\t a" * 500, "-" * 2000, "é" * 500, "The quick brown fox jumps over the lazy dog. " * 40, "中文字" * 300,
    "👩\u200d👩\u200d👧" * 50, "\u0301" * 500, "ﬁ\u2028\u00a0İ",
)  # fmt: skip
"""Texts that expose slow regular expressions and rules whose output is much longer than their input."""
_MAX_IDS_PER_BYTE = 200
"""Maximum number of token ids per byte of text."""


def _tokenizer(folder: Path) -> str:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if file.exists():
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as e:  # the library raises nothing narrower
            return f"not a valid tokenizer: {str(e).splitlines()[0][:200] if str(e) else 'damaged'}"
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for text in _SAMPLES:
            try:
                found = tokenizer.encode(text, add_special_tokens=False)
                tokenizer.decode(found.ids[:500])
            except Exception as e:
                return f"the tokenizer fails on {text[:20]!r}: {str(e)[:200]}"
            if len(found.ids) > _MAX_IDS_PER_BYTE * len(text.encode()):
                return f"the tokenizer returns {len(found.ids)} ids for {len(text)} characters"
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
    for entry in named:
        text = entry.get("template") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            yield text


def _render(template: str) -> None:
    """Render a short conversation. Template errors are ignored here; only crashes and limits matter."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # of transformers: marks the assistant's text
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
    user, reply = {"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}
    for turns in ([user], [user, reply], [{"role": "system", "content": "Rules."}, user, reply, user]):
        try:
            rendered = environment.from_string(template).render(
                messages=turns, add_generation_prompt=turns[-1] is user, bos_token="<s>", eos_token="</s>"
            )
        except MemoryError:
            raise
        except Exception:  # a template may refuse such turns
            continue
        if len(rendered) > 10_000_000:
            raise MemoryError


def _limit(seconds: float, megabytes: int) -> None:
    import resource

    for resource_id, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, max(1, round(seconds))),
        (resource.RLIMIT_DATA, megabytes << 20),
    ):
        hard = resource.getrlimit(resource_id)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)  # noqa: PLW2901
        resource.setrlimit(resource_id, (limit, hard if resource_id == resource.RLIMIT_CPU else limit))


KINDS: dict[str, Callable[[Path], str]] = {
    "arrow": lambda path: _table(path, "arrow"),
    "parquet": lambda path: _table(path, "parquet"),
    "tokenizer": _tokenizer,
}


def main() -> None:
    """Check one file and print the result; see the module docstring."""
    kind, path, seconds, megabytes = sys.argv[1:]
    _limit(float(seconds), int(megabytes))
    try:
        problem = KINDS[kind](Path(path))
    except MemoryError:
        problem = f"opening it needs more than {megabytes} MB of memory"
    except RecursionError:
        problem = "nested too deeply"
    print(json.dumps({"problem": problem}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
