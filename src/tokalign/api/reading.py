"""Read artifacts as datasets."""

from pathlib import Path
from typing import Any

from tokalign.artifacts.manifest import open_artifact
from tokalign.artifacts.schemas import KINDS
from tokalign.artifacts.token_labels import table
from tokalign.data import readers
from tokalign.errors import KindError


def read(path: str | Path) -> Any:
    """Read the rows of an artifact into a ``datasets.Dataset`` in memory.

    The files are checked against the manifest. For ``winrates`` the rows are the compared responses and their
    preferences.

    Raises:
        KindError: the artifact has no rows, because it is a model.
        InputError: there is no artifact at ``path``, or it is damaged.
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
