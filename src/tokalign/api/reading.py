"""Artifacts as datasets."""

from pathlib import Path
from typing import Any

from tokalign.artifacts.manifest import open_artifact
from tokalign.artifacts.schemas import KINDS
from tokalign.artifacts.token_labels import table
from tokalign.data import readers
from tokalign.errors import KindError


def read(path: str | Path) -> Any:
    """The rows of an artifact, checked against its manifest, as a ``datasets.Dataset`` in memory.

    Of ``winrates`` these are the responses that were compared, with the preferences.

    Raises:
        KindError: an artifact without rows (a model).
        InputError: there is none, or it is damaged.
    """
    from datasets import Dataset

    artifact = open_artifact(Path(path))
    kind = artifact.manifest.kind
    if kind == "token-labels":
        return Dataset(table(artifact))
    if kind == "winrates" or KINDS[kind].row is not None:
        file = artifact.file("compared.jsonl" if kind == "winrates" else "data.jsonl")
        return Dataset.from_list([row for _, row in readers.read_file(file)])
    raise KindError(f"{kind} has no rows", where=str(path), remedy="load a model with transformers or RewardModel.load")
