"""Training metrics: ``metrics.jsonl`` and, on request, TensorBoard or W&B."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from tokalign.artifacts.workspace import Workspace
from tokalign.config.options import ReportTo
from tokalign.errors import UsageError
from tokalign.runtime.disk import finite

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes one JSON object per step to ``metrics.jsonl`` and flushes every line.

    Args:
        space: workspace of the run.
        report_to: also log to TensorBoard or W&B.
        after: step after which the run resumes (0: new run). Earlier lines and the W&B run are kept.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, space: Workspace, report_to: ReportTo = "none", after: int = 0) -> None:
        path = space.folder / METRICS
        space.write(METRICS, "".join(_up_to(path, after)))  # atomic: a kill loses none of these lines
        self._file = path.open("a", encoding="utf-8")
        self._space = space
        self._board: Any = None
        self._wandb: Any = None
        if report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            with self._adopting("tensorboard"):
                self._board = SummaryWriter(str(space.folder / "tensorboard"), purge_step=after + 1)
        elif report_to == "wandb":
            try:
                import wandb  # type: ignore[import-not-found, unused-ignore]
            except ImportError as e:
                raise UsageError("--report-to wandb needs wandb", remedy="pip install wandb") from e
            path = space.folder / "wandb" / "id"
            if not after or not path.exists():
                space.write("wandb/id", uuid4().hex)
            with self._adopting("wandb"):
                self._wandb = wandb.init(dir=str(space.folder), id=path.read_text(encoding="utf-8"), resume="allow")

    @contextmanager
    def _adopting(self, below: str) -> Iterator[None]:
        """Claim the files that a library creates inside this block for the run."""
        before = self._files(below)
        yield
        self._space.adopt(self._files(below) - before)

    def _files(self, below: str) -> set[str]:
        folder = self._space.folder
        return {p.relative_to(folder).as_posix() for p in (folder / below).rglob("*") if not p.is_dir()}

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """Log the numbers of one step."""
        self._file.write(json.dumps(finite({"step": step, **numbers})) + "\n")
        self._file.flush()
        flat = {k: v for k, v in numbers.items() if isinstance(v, int | float)}
        if self._board is not None:
            for key, value in flat.items():
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            with self._adopting("wandb"):
                self._wandb.finish()


def _up_to(path: Path, step: int) -> list[str]:
    if not step or not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in whole if json.loads(line)["step"] <= step]


def last_logged(folder: Path, key: str) -> Any:
    """Return the last value of ``key`` in the ``metrics.jsonl`` of a folder, or None if the key is not there."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next((row[key] for row in map(json.loads, reversed(lines)) if key in row), None)
