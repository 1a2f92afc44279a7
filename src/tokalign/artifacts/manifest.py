"""Artifacts on disk: a folder of data files and a ``manifest.json`` with their hashes, which is written last.

A folder without a manifest is an unfinished run. Artifacts are read through :func:`open_artifact` only, which checks
every listed file and gives no access to other files in the folder. :mod:`tokalign.artifacts.writer` writes artifacts.
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
from tokalign.errors import InputError, KindError, VersionError
from tokalign.runtime.disk import hash_json, is_regular, parse, read_regular, sha256, unseal

MANIFEST, PLAN = "manifest.json", "unfinished.json"
JOURNAL, ANNOTATIONS = "journal.jsonl", "annotations.jsonl"
"""Paid API calls and the decisions of people. These files are never deleted or replaced."""
LOGS = ("metrics.jsonl", "tensorboard", "wandb")
"""Logs, left out of the digest: equal results may log differently."""
LARGEST = 16 * 1024 * 1024
"""Maximum size of a manifest in bytes."""
_UNSEALED = ("0.1.0",)
"""Versions of tokalign whose manifests have no seal."""
_SIGNATURE = (b'"kind"', b'"tokalign"', b'"config_hash"', b'"libraries"')
"""Strings that identify a manifest of tokalign, even a damaged one; other tools also write ``manifest.json``."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@with_config(_STRICT)
class File(TypedDict):
    """A data file. ``name`` is its path relative to the artifact, ``bytes`` its size, ``rows`` its number of rows."""

    name: str
    sha256: str
    bytes: NotRequired[Count]
    rows: NotRequired[Count]


@with_config(_STRICT)
class Input(TypedDict):
    """An input of the run. ``path`` is relative to the artifact if it existed; ``sha256`` is the input's digest."""

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
"""Numbers of rows: read, written, skipped, failed, counts by reason, and the size of the train and held-out sets."""
Counts.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]


@with_config(_STRICT)
class Usage(TypedDict, total=False):
    """Cost of the run in US dollars; empty for commands that make no API calls."""

    usd: Amount
    perhaps_usd: Amount
    answers: Count
    lost_calls: Count
    retries: dict[str, Count]


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``. ``rows`` has the counts in, out, skipped, failed and ``reasons``."""

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
    """Folders of nested artifacts, relative to this one. Each has its own manifest."""
    checkpoints: list[str] = field(default_factory=list)
    """Files of training checkpoints. They are not part of the result and have their own hashes."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and validate the manifest of a folder.

        Raises:
            InputError: the manifest cannot be read, is not one of tokalign, was modified, or has a newer version.
        """
        path = folder / MANIFEST
        try:
            text = read_regular(path, LARGEST)
            raw = parse(text)
            if not isinstance(raw, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as e:
            problem = e.strerror if isinstance(e, OSError) else e
            raise InputError(f"not a readable manifest: {problem}", where=str(path), remedy=_REMEDY) from e
        kind, version, by = (raw.get(key) for key in ("kind", "version", "tokalign"))
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"unknown kind {str(kind)[:80]!r}", where=str(path), field="kind")
        newest = KINDS[kind].version
        if isinstance(version, int) and version > newest:
            raise VersionError(
                f"{kind}/{version} is newer than {kind}/{newest}, the newest version that this tokalign reads",
                where=str(path),
                field="version",
                remedy=f"upgrade tokalign (installed: {__version__}, written by: {str(by)[:40]})",
            )
        try:
            raw, sealed = unseal(text)
        except ValueError as e:
            raise InputError(f"not a readable manifest: {e}", where=str(path), remedy=_REMEDY) from e
        if not sealed and by not in _UNSEALED:
            raise InputError("not a readable manifest: the seal is missing", where=str(path), remedy=_REMEDY)
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
                f"not a readable manifest: {problem}", where=str(path), field=prefix + place, remedy=_REMEDY
            ) from e
        except ValueError as e:
            raise InputError(str(e), where=str(path), field="files", remedy=_REMEDY) from e
        return manifest

    @property
    def unresolved(self) -> bool:
        """Whether some rows failed or, for edits, no row is usable."""
        nothing = self.kind == "edits" and not self.stats.get("status", {}).get("edited")
        return bool(self.rows.get("failed")) or nothing

    @property
    def digest(self) -> str:
        """Hash of all files except logs. Artifacts with equal content have equal digests."""
        return hash_json([[f["name"], f["sha256"]] for f in self.files if f["name"].split("/")[0] not in LOGS])

    def fingerprint(self, options: Iterable[str]) -> dict[str, Any]:
        """Return the recorded values of these options and the hashes of the inputs; see ``Writer.fingerprint``."""
        contents = {f"input {i['name']}": i["sha256"] for i in self.inputs}
        return {"kind": self.kind, **{k: self.config[k] for k in options if k in self.config}, **contents}

    def lineage(self) -> dict[str, Any]:
        """Return the entry (without the path) that describes this artifact as an input of another one."""
        return {"kind": self.kind, "version": self.version, "sha256": self.digest, "rows": self.rows.get("out")}


_REMEDY = "make the artifact again; artifacts are never edited in place"


@cache
def _schema() -> type[BaseModel]:
    """The pydantic model that validates a manifest."""
    hints = get_type_hints(Manifest, include_extras=True)
    hints |= {"inputs": list[Input], "files": list[File], "rows": Counts, "usage": Usage}
    defaults: dict[str, Any] = {}
    for f in fields(Manifest):
        factory = f.default_factory
        default: Any = f.default if f.default is not MISSING else ...
        defaults[f.name] = (hints[f.name], default if factory is MISSING else Field(default_factory=factory))
    return create_model("_Manifest", __config__=_STRICT, **defaults)


def check_name(name: str) -> None:
    """Check that a file name stays inside the artifact.

    Raises:
        ValueError: the name is absolute, contains ``..`` or a null character, is not normalised, or is too long.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or path.as_posix() != name:
        raise ValueError(f"{name[:200]!r} points outside the artifact")
    if max(len(part.encode(errors="replace")) for part in path.parts) > _MAX_NAME or len(name) > _MAX_PATH:
        raise ValueError(f"{name[:80]!r}… is too long for a file name")


_MAX_NAME, _MAX_PATH = 255, 2048
"""Maximum length of a file name (in bytes) and of a path (in characters)."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact whose files match its manifest."""

    folder: Path
    manifest: Manifest

    def find(self, pattern: str) -> list[Path]:
        """Return the files whose path inside the artifact matches the glob ``pattern``, sorted by name."""
        names = sorted(f["name"] for f in self.manifest.files)
        return [self.folder / name for name in names if fnmatchcase(name, pattern)]

    def file(self, name: str) -> Path:
        """Return the path of a file of this artifact.

        Raises:
            InputError: the manifest does not list the file.
        """
        if not any(f["name"] == name for f in self.manifest.files):
            where = str(self.folder / MANIFEST)
            raise InputError(f"the manifest does not list {name}", where=where, field="files", remedy=_REMEDY)
        return self.folder / name


def is_artifact(path: Path) -> bool:
    """Whether a folder has a manifest. The manifest is not read."""
    return is_regular(path / MANIFEST)


def kind_of(path: Path) -> str | None:
    """Return the kind of the artifact in a folder, or None if the folder has no manifest."""
    return Manifest.read(path).kind if is_artifact(path) else None


def looks_ours(folder: Path) -> bool:
    """Whether the ``manifest.json`` of a folder was written by tokalign, even if it is damaged."""
    try:
        raw = read_regular(folder / MANIFEST, LARGEST)
    except (OSError, ValueError):
        return False
    return sum(mark in raw for mark in _SIGNATURE) >= len(_SIGNATURE) - 1


def open_artifact(folder: Path, *kinds: str) -> Artifact:
    """Open an artifact: check its manifest, its kind and every listed file.

    Every file must be a regular file inside the folder, reached without symbolic links, and have the size and hash in
    the manifest. An unlisted file that a library would load together with a model is an error.

    Args:
        folder: folder of the artifact.
        *kinds: accepted kinds; none accepts all.

    Raises:
        KindError: the artifact is of another kind.
        InputError: the manifest is invalid, or a file is missing, modified, unlisted or outside the folder.
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
        raise InputError(f"the manifest lists no {data}", where=where, field="files", remedy=_REMEDY)
    for entry in manifest.files:
        _check_file(folder, entry)
    _refuse_unlisted(artifact)
    if manifest.kind == "winrates":
        _check_win_rates(artifact)
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
            f"{entry['name']!r} is not a regular file (a symbolic link, a folder or a device)",
            where=str(folder / MANIFEST),
            field="files",
        )
    if entry.get("bytes", found.st_size) != found.st_size or sha256(path) != entry["sha256"]:
        raise InputError("the content is not what the manifest says (sha256 differs)", where=str(path), remedy=_REMEDY)


_MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".jinja", ".model", ".py", ".pt", ".pth", ".msgpack", ".tiktoken")
"""Suffixes of files that a library loads together with a model in the same folder."""
_VOCABULARY = ("vocab.txt", "merges.txt")
_MODEL_FOLDERS = ("", "adapter", "tokenizer", "additional_chat_templates")
"""Subfolders of an artifact from which models and tokenizers are loaded."""
_OURS = (MANIFEST, PLAN, "progress.json")


def _refuse_unlisted(artifact: Artifact) -> None:
    """Refuse unlisted files that a library would load together with the model: they could replace it."""
    listed = {f["name"] for f in artifact.manifest.files}
    if not listed & {"config.json", "tokenizer.json", "tokenizer/tokenizer.json"}:
        return
    for below in _MODEL_FOLDERS:
        folder = artifact.folder / below
        if not folder.is_dir():
            continue
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            name = f"{below}/{entry.name}" if below else entry.name
            read = entry.name.endswith(_MODEL_SUFFIXES) or entry.name in _VOCABULARY
            if read and name not in listed and name not in _OURS:
                raise InputError(
                    f"{name} is not listed in the manifest but would be loaded together with the model",
                    where=str(artifact.folder),
                    remedy="move it elsewhere",
                )


def _check_win_rates(artifact: Artifact) -> None:
    """Check that the win rates in the manifest equal those in ``data.json``.

    Raises:
        InputError: they differ.
    """
    path = artifact.file("data.json")
    try:
        raw, _ = unseal(read_regular(path))
        found = stats_schemas.check("winrates", {"paired": [], **raw})["candidates"]
    except (OSError, ValueError) as e:
        raise InputError("not a valid table of win rates", where=str(path), remedy=_REMEDY) from e
    if found != artifact.manifest.stats["candidates"]:
        where = str(artifact.folder / MANIFEST)
        raise InputError(
            "the win rates differ from those in data.json", where=where, field="stats.candidates", remedy=_REMEDY
        )
