"""Artifacts on disk: a folder of data files and a ``manifest.json``, written last, that vouches for them.

A folder without a manifest is an unfinished run. :func:`open_artifact` is the one way in: it gives out regular files
that the manifest lists, with the content that it says, and nothing else that may lie there. How an artifact is written
stands in :mod:`tokalign.artifacts.writer`.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NotRequired, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, with_config
from typing_extensions import TypedDict

from tokalign import __version__
from tokalign.artifacts import stats as stats_schemas
from tokalign.artifacts.schemas import KINDS
from tokalign.artifacts.stats import Amount, Count
from tokalign.errors import InputError, KindError
from tokalign.runtime.disk import hash_json, is_regular, parse, read_regular, sha256, unseal

MANIFEST, PLAN = "manifest.json", "unfinished.json"
JOURNAL, ANNOTATIONS = "journal.jsonl", "annotations.jsonl"
"""What was paid, or done by a person: it stays, whatever is made of it."""
LOGS = ("metrics.jsonl", "tensorboard", "wandb")
"""What tells of a run and not of its result: two equal results have different ones."""
LARGEST = 16 * 1024 * 1024
"""Bytes of a manifest."""
_UNSEALED = ("0.1.0",)
"""Versions of tokalign whose manifests bear no seal."""
_MARKS = (b'"kind"', b'"tokalign"', b'"config_hash"', b'"libraries"')
"""Of a manifest of ours, however damaged; other tools have files of this name."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@with_config(_STRICT)
class File(TypedDict):
    """A data file, by its path within the artifact."""

    name: str
    sha256: str
    bytes: NotRequired[Count]
    rows: NotRequired[Count]


@with_config(_STRICT)
class Input(TypedDict):
    """What an artifact was made from. ``path`` is relative to the artifact where it existed; ``sha256``: its digest."""

    name: str
    sha256: str | None
    path: NotRequired[Annotated[str, Field(pattern=r"^[^\x00]*$")]]
    kind: NotRequired[str | None]
    version: NotRequired[int | None]
    rows: NotRequired[Count | None]


Counts = TypedDict(
    "Counts",
    {
        "in": NotRequired[Count],
        "out": Count,
        "skipped": NotRequired[Count],
        "failed": NotRequired[Count],
        "reasons": NotRequired[dict[str, Count]],
        "train": NotRequired[Count],
        "heldout": NotRequired[Count],
    },
)
"""Rows, by what became of them."""
Counts.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]


@with_config(_STRICT)
class Usage(TypedDict, total=False):
    """What was paid; empty where nothing could be."""

    usd: Amount
    perhaps_usd: Amount
    answers: Count
    lost_calls: Count
    retries: dict[str, Count]


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``. ``rows`` holds in, out, skipped, failed and ``reasons`` with counts."""

    kind: str
    version: Annotated[int, Field(ge=1)]
    tokalign: str
    created: str
    command: list[str]
    config: dict[str, Any]
    config_hash: str
    seed: int
    inputs: list[dict[str, Any]]
    files: list[dict[str, Any]]
    rows: dict[str, Any]
    stats: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    seconds: Amount = 0.0
    status: Literal["complete"] = "complete"
    parts: list[str] = field(default_factory=list)
    """Artifacts inside this one that are a part of it; each vouches for its own files."""
    checkpoints: list[str] = field(default_factory=list)
    """Files of the run that are no part of its result: what it would go on from, sealed apart."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read a folder's manifest and check all that stands in it.

        Raises:
            InputError: it cannot be read, is not one of ours, was changed, or is newer than this program.
        """
        path = folder / MANIFEST
        try:
            text = read_regular(path, LARGEST)
            raw = parse(text)
            if not isinstance(raw, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as e:
            problem = e.strerror if isinstance(e, OSError) else e
            raise InputError(f"not a readable manifest: {problem}", where=str(path), remedy=_AGAIN) from e
        kind, version, by = (raw.get(key) for key in ("kind", "version", "tokalign"))
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"unknown kind {str(kind)[:80]!r}", where=str(path), field="kind")
        newest = KINDS[kind].version
        if isinstance(version, int) and version > newest:
            raise InputError(
                f"{kind}/{version} is newer than {kind}/{newest}, the latest known here",
                where=str(path),
                field="version",
                remedy=f"upgrade tokalign (this is {__version__}, that was {str(by)[:40]})",
            )
        try:
            raw, sealed = unseal(text)
        except ValueError as e:
            raise InputError(f"not a readable manifest: {e}", where=str(path), remedy=_AGAIN) from e
        if not sealed and by not in _UNSEALED:
            raise InputError("not a readable manifest: it has lost its seal", where=str(path), remedy=_AGAIN)
        try:
            fields_of = _schema().model_validate(raw)
            manifest = cls(**{f.name: getattr(fields_of, f.name) for f in fields(cls)})
            for name in (*(f["name"] for f in manifest.files), *manifest.parts, *manifest.checkpoints):
                check_name(name)
            object.__setattr__(manifest, "stats", stats_schemas.check(kind, manifest.stats))
        except ValidationError as e:
            first = e.errors()[0]
            place = ".".join(map(str, first["loc"]))
            prefix = "" if first["loc"] and first["loc"][0] in raw else "stats."
            problem = f"{first['msg'].removeprefix('Value error, ')}; got {str(first['input'])[:80]!r}"
            raise InputError(
                f"not a readable manifest: {problem}", where=str(path), field=prefix + place, remedy=_AGAIN
            ) from e
        except ValueError as e:
            raise InputError(str(e), where=str(path), field="files", remedy=_AGAIN) from e
        return manifest

    @property
    def unresolved(self) -> bool:
        """Whether the run ended with rows that failed, or with edits of which none is usable."""
        nothing = self.kind == "edits" and not self.stats.get("status", {}).get("edited")
        return bool(self.rows.get("failed")) or nothing

    @property
    def digest(self) -> str:
        """One hash of all files but logs: equal content, equal digest, whenever it was made."""
        return hash_json([[f["name"], f["sha256"]] for f in self.files if f["name"].split("/")[0] not in LOGS])

    def fingerprint(self, options: Iterable[str]) -> dict[str, Any]:
        """What decided the rows, by those of these options that there were: as ``Writer.fingerprint``."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **{k: self.config[k] for k in options if k in self.config}, **contents}

    def lineage(self) -> dict[str, Any]:
        """What another artifact's manifest says of this one (but for the path)."""
        return {"kind": self.kind, "version": self.version, "sha256": self.digest, "rows": self.rows.get("out")}


_AGAIN = "make the artifact again; artifacts are never edited in place"


@cache
def _schema() -> type[BaseModel]:
    """The fields of a manifest, as what checks them."""
    hints = get_type_hints(Manifest, include_extras=True)
    hints |= {"inputs": list[Input], "files": list[File], "rows": Counts, "usage": Usage}
    defaults: dict[str, Any] = {}
    for f in fields(Manifest):
        factory = f.default_factory
        default: Any = f.default if f.default is not MISSING else ...
        defaults[f.name] = (hints[f.name], default if factory is MISSING else Field(default_factory=factory))
    return create_model("_Manifest", __config__=_STRICT, **defaults)


def check_name(name: str) -> None:
    """Refuse a name that could lead out of a folder.

    Raises:
        ValueError: it could.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or path.as_posix() != name:
        raise ValueError(f"{name[:200]!r} points outside the artifact")
    if max(len(part.encode(errors="replace")) for part in path.parts) > _NAME or len(name) > _PATH:
        raise ValueError(f"{name[:80]!r}… is longer than the name of a file can be")


_NAME, _PATH = 255, 2048
"""Bytes of a file's name that all file systems take, and characters of a path."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    def find(self, pattern: str) -> list[Path]:
        """Its files whose path within it matches, in order of their names."""
        names = sorted(f["name"] for f in self.manifest.files)
        return [self.folder / name for name in names if fnmatchcase(name, pattern)]

    def file(self, name: str) -> Path:
        """One of its files.

        Raises:
            InputError: the manifest does not list it.
        """
        if not any(f["name"] == name for f in self.manifest.files):
            where = str(self.folder / MANIFEST)
            raise InputError(f"the manifest does not list {name}", where=where, field="files", remedy=_AGAIN)
        return self.folder / name


def is_artifact(path: Path) -> bool:
    """Whether a finished artifact lies there, or says so."""
    return is_regular(path / MANIFEST)


def kind_of(path: Path) -> str | None:
    """The kind of the artifact that lies there; None if none does."""
    return Manifest.read(path).kind if is_artifact(path) else None


def looks_ours(folder: Path) -> bool:
    """Whether a folder holds a manifest of ours, whole or damaged: other tools have files of this name."""
    try:
        raw = read_regular(folder / MANIFEST, LARGEST)
    except (OSError, ValueError):
        return False
    return sum(mark in raw for mark in _MARKS) >= len(_MARKS) - 1


def open_artifact(folder: Path, *kinds: str) -> Artifact:
    """The one way into an artifact: check its manifest, that it is one of ``kinds``, and every file that it lists.

    Files are regular ones inside the folder, reached without links, with the size and the hash that the manifest says.
    In a folder of a model, a file that is not listed but would be read with it is refused.

    Raises:
        KindError: another kind lies there.
        InputError: the manifest is none; a file is missing, changed, or not inside the folder.
    """
    manifest = Manifest.read(folder)
    if kinds and manifest.kind not in kinds:
        raise KindError(
            f"this artifact holds {manifest.kind}, not {' or '.join(kinds)}",
            where=str(folder),
            remedy=f"make one with: {KINDS[kinds[0]].made_by}",
        )
    artifact = Artifact(folder, manifest)
    data = KINDS[manifest.kind].data
    if not artifact.find(data):
        where = str(folder / MANIFEST)
        raise InputError(f"the manifest lists no {data}", where=where, field="files", remedy=_AGAIN)
    for entry in manifest.files:
        _check_file(folder, entry)
    _refuse_strangers(artifact)
    if manifest.kind == "winrates":
        _compare(artifact)
    return artifact


def _check_file(folder: Path, entry: dict[str, Any]) -> None:
    path, name = folder / entry["name"], PurePosixPath(entry["name"])
    try:
        for above in name.parents[:-1]:
            if not stat.S_ISDIR((folder / above).lstat().st_mode):
                raise InputError(
                    f"{entry['name']!r} points outside the artifact", where=str(folder / MANIFEST), field="files"
                )
        found = path.lstat()
    except OSError as e:
        missing = isinstance(e, FileNotFoundError | NotADirectoryError)
        problem = "the file is missing" if missing else f"it cannot be read: {e.strerror}"
        raise InputError(problem, where=str(path), remedy="make the artifact again") from e
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{entry['name']!r} is not a regular file; it points outside the artifact, or is none",
            where=str(folder / MANIFEST),
            field="files",
        )
    if entry.get("bytes", found.st_size) != found.st_size or sha256(path) != entry["sha256"]:
        raise InputError("the content is not what the manifest says (sha256 differs)", where=str(path), remedy=_AGAIN)


_WITH_MODELS = (".json", ".safetensors", ".bin", ".jinja", ".model", ".py", ".pt", ".pth", ".msgpack", ".tiktoken")
"""Ends of the names of files that are read with a model if they lie in its folder."""
_VOCABULARY = ("vocab.txt", "merges.txt")
_READ_WITH_IT = ("", "adapter", "tokenizer", "additional_chat_templates")
"""Folders of an artifact in which models and tokenizers look for their files."""
_OURS = (MANIFEST, PLAN, "progress.json")


def _refuse_strangers(artifact: Artifact) -> None:
    """Refuse files that the manifest does not list, but that would be read with a model: they could be another one."""
    listed = {f["name"] for f in artifact.manifest.files}
    if not listed & {"config.json", "tokenizer.json", "tokenizer/tokenizer.json"}:
        return
    for below in _READ_WITH_IT:
        folder = artifact.folder / below
        if not folder.is_dir():
            continue
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            name = f"{below}/{entry.name}" if below else entry.name
            read = entry.name.endswith(_WITH_MODELS) or entry.name in _VOCABULARY
            if read and name not in listed and name not in _OURS:
                raise InputError(
                    f"{name} lies in the folder of a model, where it would be read with it, but is none of its files",
                    where=str(artifact.folder),
                    remedy="move it elsewhere",
                )


def _compare(artifact: Artifact) -> None:
    """The manifest's win rates are those of the data.

    Raises:
        InputError: they are not.
    """
    path = artifact.file("data.json")
    try:
        raw, _ = unseal(read_regular(path))
        found = stats_schemas.check("winrates", {"paired": [], **raw})["candidates"]
    except (OSError, ValueError) as e:
        raise InputError("not a table of win rates", where=str(path), remedy=_AGAIN) from e
    if found != artifact.manifest.stats["candidates"]:
        where = str(artifact.folder / MANIFEST)
        raise InputError("other win rates than in data.json", where=where, field="stats.candidates", remedy=_AGAIN)
