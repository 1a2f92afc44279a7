"""Read and write the Arrow files of ``token-labels``."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokalign.artifacts.manifest import Artifact, kind_of, open_artifact
from tokalign.artifacts.model_files import check_model
from tokalign.artifacts.schemas import TokenLabels
from tokalign.errors import InputError

_REMEDY = "make the labels again: tokalign diff"
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
_IDS, _LABELS = pa.list_(pa.int32()), pa.list_(pa.int8())
_OFFSETS = pa.list_(pa.list_(pa.int32(), 2))
LABELS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.list_(_TURN)),
        ("original", pa.string()),
        ("edited", pa.string()),
        ("chosen", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("similarity", pa.float32()),
        ("prompt_ids", _IDS),
        *((f"{side}_{name}", kind) for side in ("original", "edited") for name, kind in (
            ("ids", _IDS), ("labels", _LABELS), ("offsets", _OFFSETS), ("spans", _IDS),
        )),
    ]
)  # fmt: skip


HEAD: bytes = LABELS_SCHEMA.serialize().to_pybytes()
TAIL = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""An Arrow IPC stream consists of the schema message (HEAD), the batch messages and an end marker (TAIL)."""


class Ragged(NamedTuple):
    """A column of lists: the concatenated ``values``; list ``k`` is ``values[rows[k]:rows[k + 1]]``."""

    values: NDArray[Any]
    rows: NDArray[Any]


def pack_labels(columns: Mapping[str, Any]) -> bytes:
    """Serialise a batch of rows to the bytes that belong between :data:`HEAD` and :data:`TAIL` in a file.

    Args:
        columns: every column of :data:`LABELS_SCHEMA`, each a list of values or a :class:`Ragged`.
    """
    arrays = [_array(columns[field.name], field.type) for field in LABELS_SCHEMA]
    batch = pa.RecordBatch.from_arrays(arrays, schema=LABELS_SCHEMA)
    return batch.serialize().to_pybytes()  # type: ignore[no-any-return, unused-ignore]


def _array(column: Any, kind: Any) -> Any:
    if not isinstance(column, Ragged):
        return pa.array(column, type=kind)
    values = pa.array(column.values.ravel())
    if pa.types.is_fixed_size_list(kind.value_type):
        values = pa.FixedSizeListArray.from_arrays(values, kind.value_type.list_size)
    return pa.ListArray.from_arrays(pa.array(column.rows.astype(np.int32)), values.cast(kind.value_type))


def open_labels(source: str) -> Artifact:
    """Open a ``token-labels`` artifact.

    Raises:
        InputError: ``source`` is no such artifact.
    """
    if kind_of(Path(source)) is None:
        remedy = "edit the rejected responses with tokalign edit, then label the edits with tokalign diff"
        raise InputError("not a token-labels artifact", where=source, remedy=remedy)
    labels = open_artifact(Path(source), "token-labels")
    check_model(labels.folder / "tokenizer")
    return labels


def read_labels(labels: Artifact, limit: int | None = None) -> list[TokenLabels]:
    """Return the rows of a ``token-labels`` artifact, at most ``limit``.

    Raises:
        InputError: a file is damaged or does not match the schema.
    """
    return list(islice(iter_labels(labels), limit))


def iter_labels(labels: Artifact) -> Iterator[TokenLabels]:
    """Like :func:`read_labels`, but load one batch of rows at a time."""
    for batch in _batches(labels):
        yield from (TokenLabels(**row) for row in batch.to_pylist())


def table(labels: Artifact) -> Any:
    """Return all rows as a ``pyarrow.Table``.

    Raises:
        InputError: see :func:`read_labels`.
    """
    return pa.Table.from_batches(list(_batches(labels)), schema=LABELS_SCHEMA)


def look_up_labels(labels: Artifact) -> Iterator[tuple[dict[str, Any], Callable[[], TokenLabels]]]:
    """Yield every row without its token columns, with a function that loads the full row: cheap if few are needed."""
    light = [field.name for field in LABELS_SCHEMA if not field.name.startswith(("prompt_", "original_", "edited_"))]
    for batch in _batches(labels):
        for k, row in enumerate(batch.select(light).to_pylist()):
            yield row, partial(_load, batch, k)


def _load(batch: Any, k: int) -> TokenLabels:
    return TokenLabels(**batch.slice(k, 1).to_pylist()[0])


def _batches(labels: Artifact) -> Iterator[Any]:
    for path in labels.find("data*.arrow"):
        yield from batches(path)


def batches(path: Path) -> Iterator[Any]:
    """Yield the batches of a label file. Each is validated first, because damaged Arrow data can crash the interpreter.

    Raises:
        InputError: the file is damaged or has other columns.
    """
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            if stream.schema.remove_metadata() != LABELS_SCHEMA:
                missing = sorted(set(LABELS_SCHEMA.names) - set(stream.schema.names))
                problem = f"missing columns: {missing}" if missing else "the columns have other types"
                raise InputError(problem, where=str(path), remedy=_REMEDY)
            for batch in stream:
                batch.validate(full=True)
                _check_lengths(batch, path)
                yield batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise InputError(f"not a complete Arrow stream: {e}", where=str(path), remedy=_REMEDY) from e


def _check_lengths(batch: Any, path: Path) -> None:
    """Check that no value is missing and that every row has as many labels, offsets and spans as ids, on both sides.

    Raises:
        InputError: a value is missing, or a number differs.
    """
    for name in LABELS_SCHEMA.names:
        if batch[name].null_count and name != "chosen":
            raise InputError("a value is missing", where=str(path), field=name, remedy=_REMEDY)
    for side in ("original", "edited"):
        ids = pc.list_value_length(batch[f"{side}_ids"])
        for name in ("labels", "offsets", "spans"):
            if not pc.list_value_length(batch[f"{side}_{name}"]).equals(ids):
                problem = f"the number of {name} differs from the number of ids"
                raise InputError(problem, where=str(path), field=f"{side}_{name}", remedy=_REMEDY)
