"""Arrow files of ``token-labels``: packed in batches, read back as rows."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokalign.errors import InputError
from tokalign.schemas import TokenLabels

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
"""An Arrow IPC stream is the schema's message, those of the batches one after the other, and an end mark."""


def pack_labels(rows: Sequence[TokenLabels]) -> bytes:
    """One batch of rows, as it stands between :data:`HEAD` and :data:`TAIL` in a file."""
    if not rows:
        return b""
    batch = pa.RecordBatch.from_pylist([row._asdict() for row in rows], schema=LABELS_SCHEMA)
    return batch.serialize().to_pybytes()  # type: ignore[no-any-return, unused-ignore]


def read_labels(path: Path, limit: int | None = None) -> list[TokenLabels]:
    """Rows of an Arrow file.

    Raises:
        InputError: the file is cut short or has other columns.
    """
    return list(islice(_rows(path), limit))


def _rows(path: Path) -> Iterator[TokenLabels]:
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            missing = set(LABELS_SCHEMA.names) - set(stream.schema.names)
            if missing:
                raise InputError(f"columns are missing: {sorted(missing)}", where=str(path))
            for batch in stream:
                values: list[dict[str, Any]] = batch.select(LABELS_SCHEMA.names).to_pylist()
                yield from (TokenLabels(**row) for row in values)
    except (pa.ArrowInvalid, OSError) as e:
        raise InputError(f"not a whole Arrow stream: {e}", where=str(path), remedy="make it again") from e
