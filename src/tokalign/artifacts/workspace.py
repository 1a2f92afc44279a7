"""The output folder of a running command: the lock, the files of the run, and the artifact that it replaces.

A plan, ``unfinished.json``, names every file of a run before the file is created. Files that neither a plan nor a
manifest names belong to the user: they are never deleted, moved, overwritten or listed. The files that a rewrite
replaces are moved to a sibling folder and deleted once the new artifact is complete.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from tokalign.artifacts.manifest import ANNOTATIONS, JOURNAL, MANIFEST, PLAN, Manifest, check_name
from tokalign.artifacts.stats import Amount
from tokalign.errors import ConflictError, InputError, LockedError, VersionError
from tokalign.runtime.disk import is_regular, mode, read_regular, sealed, sha256, sync, unseal, write_at

LOCK, PROGRESS, CHECKPOINTS = ".lock", "progress.json", "checkpoints"
STAYS = (LOCK, JOURNAL, ANNOTATIONS)
"""Files that exist across runs. Paid API calls and the decisions of people are never deleted."""
_ELSEWHERE = "move it elsewhere, or choose another --out"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process while the block runs.

    Raises:
        LockedError: another process holds the lock; the message has its process id.
        ConflictError: the lock file was not created by tokalign.
    """
    path, handle = folder / LOCK, -1
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        found = os.fstat(handle)
        held = os.read(handle, 32) if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else b"?"
    except OSError as e:
        if handle >= 0:
            os.close(handle)
        if e.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        held = b"?"
    if held and not held.isdigit():
        if handle >= 0:
            os.close(handle)
        raise ConflictError(f"{path} is not a lock file of tokalign", remedy=_ELSEWHERE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise LockedError(
                f"process {held.decode() or '?'} is writing to {folder}",
                remedy="wait until it ends, or choose another --out",
            ) from e
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


@with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class _Fields(TypedDict):
    tokalign: str
    token: str
    fingerprint: dict[str, Any]
    began: Amount
    spent: Amount
    made: list[str]
    parts: list[str]
    replaces: str | None


_FIELDS = TypeAdapter(_Fields)
_MARKER = "the plan of an unfinished run"


@dataclass(frozen=True)
class Plan:
    """Contents of ``unfinished.json``: an unfinished run and its files."""

    token: str
    """Random string in the names of the temporary files of this run."""
    fingerprint: dict[str, Any]
    """Options and inputs that determine the rows; see :meth:`tokalign.artifacts.writer.Writer.fingerprint`."""
    began: float
    """Start of the current attempt, in seconds since the epoch."""
    spent: float = 0.0
    """Seconds that earlier, interrupted attempts took."""
    made: list[str] = field(default_factory=list)
    """Files that the run has created or was about to create, relative to the folder."""
    parts: list[str] = field(default_factory=list)
    """Nested artifacts of the run, relative to the folder."""
    replaces: str | None = None
    """The folder to which the replaced files were moved, relative to this folder; None if nothing was replaced."""

    @classmethod
    def read(cls, folder: Path) -> "Plan | None":
        """Read the plan in a folder; return None if there is none.

        Raises:
            ValueError: the plan cannot be read or was modified.
        """
        try:
            raw, is_sealed = unseal(read_regular(folder / PLAN))
            if not is_sealed:
                raise ValueError("the seal is missing; an older version may have written it")
            found = _FIELDS.validate_python(raw)
            for name in (*found["made"], *found["parts"]):
                check_name(name)
            del raw["tokalign"]
            return cls(**raw)
        except FileNotFoundError:
            return None
        except ValidationError as e:
            raise ValueError(f"not {_MARKER}: {e.errors()[0]['msg']}") from e
        except OSError as e:
            raise ValueError(str(e.strerror)) from e

    @property
    def text(self) -> str:
        """The text of the file, with its seal."""
        return sealed({"tokalign": _MARKER, **asdict(self)})


class Found(NamedTuple):
    """The manifest and the plan in a folder; None for each that is missing."""

    manifest: Manifest | None
    plan: Plan | None


def look(folder: Path) -> Found:
    """Read the manifest and the plan of an output folder.

    Raises:
        ConflictError: the folder has other files but no manifest or plan, or one of the two is damaged. It is then
            unknown which files belong to tokalign.
        VersionError: a newer version of tokalign wrote the manifest.
    """
    manifest = None
    try:
        plan = Plan.read(folder)
    except ValueError as e:
        remedy = f"move the files that you need elsewhere ({JOURNAL} has the paid answers), or choose another --out"
        raise ConflictError(f"{folder / PLAN} is damaged or not a file of tokalign: {e}", remedy=remedy) from e
    if os.path.lexists(folder / MANIFEST):
        try:
            manifest = Manifest.read(folder)
        except VersionError:
            raise
        except InputError as e:
            raise ConflictError(f"{folder} holds {_others(folder)}: {e}", remedy=_ELSEWHERE) from e
    if manifest is None and plan is None and (others := _others(folder)):
        raise ConflictError(
            f"{folder} is not empty and not an artifact of tokalign: it holds {others}", remedy=_ELSEWHERE
        )
    return Found(manifest, plan)


def _others(folder: Path, limit: int = 5) -> str:
    """List the files in a folder as text, except those that a refused or killed run leaves behind; "" if none."""
    temporary = f".{PLAN}."
    names = sorted(p.name for p in folder.iterdir() if p.name not in STAYS and not p.name.startswith(temporary))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class Workspace:
    """The files of one run in a folder that this process has locked.

    Args:
        folder: output folder.
        plan: plan of the run. None in processes that do not write; then the methods write nothing.
    """

    def __init__(self, folder: Path, plan: Plan | None) -> None:
        self.folder, self._plan = folder, plan
        self._made = set(plan.made) if plan else set()

    @classmethod
    def at(cls, folder: Path) -> "Workspace":
        """Open a folder that is not an artifact, with the plan that is there or a new one."""
        folder.mkdir(parents=True, exist_ok=True)
        found = cls(folder, look(folder).plan or new_plan({"kind": "work"}))
        found.save()
        return found

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        assert self._plan is not None
        return self._plan

    @property
    def scratch(self) -> str:
        """Name of a temporary folder that a library creates and writes to repeatedly; see :meth:`place`."""
        return f".{self.plan.token}.saving"

    def save(self, **changes: Any) -> None:
        """Write the plan, with these fields changed."""
        self._plan = replace(self.plan, made=sorted(self._made), **changes)
        write_at(self.temporary(PLAN), self.folder / PLAN, self._plan.text)

    def claim(self, *names: str) -> None:
        """Add files to the plan before they are created.

        Raises:
            ConflictError: a file that is not of this run already has one of the names.
        """
        new = [name for name in names if name not in self._made]
        if not new or self._plan is None:
            return
        for name in new:
            self.refuse_taken(name)
        self._made |= set(new)
        self.save()

    def adopt(self, names: Iterable[str]) -> None:
        """Add files to the plan that a library has just created under names that it chose."""
        if self._plan is not None and (new := set(names) - self._made):
            self._made |= new
            self.save()

    def refuse_taken(self, name: str) -> None:
        """Raise the ConflictError of :meth:`claim` for this name, without adding it."""
        for above in PurePosixPath(name).parents[:-1]:
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR((self.folder / above).lstat().st_mode):
                    raise ConflictError(f"{self.folder / above} exists and is not a folder", remedy=_ELSEWHERE)
        if name not in self._made and os.path.lexists(self.folder / name):
            raise ConflictError(
                f"{self.folder / name} already exists and is not a file of this run",
                remedy=f"{_ELSEWHERE}; then run the command again",
            )

    def part(self, name: str) -> Path:
        """Add a nested artifact to the plan; return its folder."""
        if self._plan is not None and name not in self.plan.parts:
            self.refuse_taken(name)
            self.save(parts=[*self.plan.parts, name])
        return self.folder / name

    def temporary(self, name: str) -> Path:
        """Return the temporary path at which a file is written before it is renamed."""
        path = self.folder / name
        return path.with_name(f".{path.name}.{self.plan.token}.tmp")

    def write(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        if self._plan is None:
            return
        self.claim(name)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_at(self.temporary(name), self.folder / name, text)

    @contextmanager
    def saving(self, below: str = "") -> Iterator[Path]:
        """Yield a temporary folder; when the block ends without an error, its files are moved to ``below``."""
        if self._plan is None:
            yield self.folder / below
            return
        scratch = Path(tempfile.mkdtemp(".saving", f".{self.plan.token}.", self.folder))
        try:
            yield scratch
            self.place(scratch, below)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def place(self, source: Path, below: str, last: str = "") -> None:
        """Move the files of a scratch folder to ``below``. A file named ``last``, which marks completion, goes last."""
        paths = sorted((p for p in source.rglob("*") if p.is_file()), key=lambda p: (p.name == last, p))
        prefix = f"{below}/" if below else ""
        names = [f"{prefix}{p.relative_to(source).as_posix()}" for p in paths]
        self.claim(*names)
        folders: dict[Path, None] = {}
        for path, name in zip(paths, names, strict=True):
            path.chmod(mode())  # some libraries create files that only the owner can read
            sync(path)
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            folders[target.parent] = None
        for folder in folders:
            sync(folder)

    def names(self, below: str = "") -> list[str]:
        """Return the files of this run, or those in a subfolder, sorted."""
        return sorted(n for n in self._made if not below or n == below or n.startswith(f"{below}/"))

    def remove(self, name: str) -> None:
        """Delete a file of this run, or all its files in a subfolder. Other files there are kept."""
        if self._plan is None or not (gone := self.names(name)):
            return
        for path in gone:
            if is_inside(self.folder, path):
                (self.folder / path).unlink()
        _remove_empty(self.folder, gone)
        self._made -= set(gone)
        self.save()

    def renamed(self, old: str, new: str) -> None:
        """Rename a file of this run."""
        self.claim(new)
        (self.folder / old).replace(self.folder / new)
        self._made.discard(old)
        self.save()

    def sweep(self) -> None:
        """Delete the temporary files of a killed run."""
        if self._plan is not None:
            _delete_temporary(self.folder, self.plan)


def new_plan(fingerprint: dict[str, Any], **more: Any) -> Plan:
    """Create the plan of a new run."""
    return Plan(secrets.token_hex(4), fingerprint, time.time(), **more)


def plan_of(folder: Path, manifest: Manifest, fingerprint: dict[str, Any]) -> Plan:
    """Create the plan of a run that continues a finished artifact and takes over its files."""
    made = [f["name"] for f in manifest.files] + _checkpoints(folder, manifest)
    return new_plan(fingerprint, spent=manifest.seconds, made=made, parts=_parts(folder, manifest))


def spent(folder: Path, plan: Plan) -> float:
    """Return the seconds that an unfinished run took until it last wrote a file."""
    times = [plan.began]
    for name in (PLAN, *plan.made):
        with suppress(OSError):
            times.append((folder / name).lstat().st_mtime)
    return plan.spent + max(0.0, max(times) - plan.began)


def _checkpoints(folder: Path, manifest: Manifest) -> list[str]:
    """Files of the checkpoints. Manifests of version 0.1.0 do not list them; their ``sealed.json`` files do."""
    if manifest.tokalign != "0.1.0":
        return manifest.checkpoints
    found = []
    for path in folder.glob(f"{CHECKPOINTS}/checkpoint-*/sealed.json"):
        with suppress(OSError, ValueError):
            below = path.parent.relative_to(folder).as_posix()
            names = [f"{below}/{name}" for name in (*unseal(read_regular(path))[0], path.name)]
            for name in names:
                check_name(name)
            found += names
    return found


def _parts(folder: Path, manifest: Manifest) -> list[str]:
    """Nested artifacts. Manifests of version 0.1.0 do not list them."""
    if manifest.tokalign != "0.1.0" or manifest.kind != "winrates":
        return manifest.parts
    paths = [folder / "judgements", *folder.glob("responses/*")]
    return [p.relative_to(folder).as_posix() for p in paths if _read_documents(p) != Found(None, None)]


# ── replacing an earlier artifact ────────────────────────────────────────────────────────────────────


def replace_in(folder: Path, found: Found, plan: Plan) -> Plan:
    """Move the files of tokalign in the folder to a sibling folder, and write the plan of the new run.

    After a kill during the move, :func:`complete` continues it and :func:`restore` undoes it.

    Returns:
        The plan, with ``replaces`` set to the sibling folder.
    """
    aside = _new_sibling(folder)
    if found.plan is not None:
        _delete_temporary(folder, found.plan)
        write_at(aside / f".{PLAN}.tmp", aside / PLAN, found.plan.text)
    plan = replace(plan, replaces=os.path.relpath(aside, folder.resolve()))
    Workspace(folder, plan).save()
    complete(folder, plan)
    return plan


def complete(folder: Path, plan: Plan) -> None:
    """Move the remaining files to the folder that the plan names."""
    aside = _replaced_folder(folder, plan)
    if aside is not None:
        documents = _read_documents(aside)
        manifest = documents.manifest or _read_documents(folder).manifest
        _move(folder, aside, _listed_files(folder, Found(manifest, documents.plan)))
        if manifest is not None:
            _move(folder, aside, [MANIFEST])


def remove_made(folder: Path, plan: Plan) -> None:
    """Delete all files of a run except its plan."""
    _delete_temporary(folder, plan)
    names = _listed_files(folder, Found(None, plan))
    for name in names:
        if is_inside(folder, name):
            (folder / name).unlink()
    _remove_empty(folder, names)
    Workspace(folder, replace(plan, made=[], parts=[])).save()


def restore(folder: Path, plan: Plan) -> None:
    """Move the replaced files back after a failed rewrite; the manifest and the plan are moved last."""
    aside = _replaced_folder(folder, plan)
    if aside is None:
        (folder / PLAN).unlink(missing_ok=True)
        return
    documents = _read_documents(aside)
    manifest = documents.manifest or _read_documents(folder).manifest
    _move(aside, folder, [*_listed_files(aside, Found(manifest, documents.plan)), MANIFEST])
    if documents.plan is not None:
        (aside / PLAN).replace(folder / PLAN)
    else:
        (folder / PLAN).unlink(missing_ok=True)
    with suppress(OSError):
        aside.rmdir()
    sync(folder)


def drop(folder: Path, plan: Plan) -> list[Path]:
    """Delete the replaced artifact, and any that it had replaced. Return the folders that still hold other files."""
    kept = []
    aside = _replaced_folder(folder, plan)
    while aside is not None:
        documents = _read_documents(aside)
        older = _replaced_folder(folder, documents.plan) if documents.plan else None
        if not _delete_replaced(aside, documents):
            kept.append(aside)
        aside = older
    return kept


def _delete_replaced(folder: Path, documents: Found) -> bool:
    """Delete a replaced artifact, except files that differ from its manifest. Return whether the folder was deleted."""
    hashes = {f["name"]: f["sha256"] for f in documents.manifest.files} if documents.manifest else {}
    for name in _listed_files(folder, documents):
        path = folder / name
        if is_inside(folder, name) and (name not in hashes or (is_regular(path) and sha256(path) == hashes[name])):
            path.unlink()
    _remove_empty(folder, _listed_files(folder, documents))
    rest = [p for p in folder.iterdir() if p.name not in (MANIFEST, PLAN)]
    if not rest:
        for name in (MANIFEST, PLAN):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    return not rest


def _replaced_folder(folder: Path, plan: Plan) -> Path | None:
    """The folder with the replaced files; None if the plan names none or it does not exist."""
    if plan.replaces is None:
        return None
    aside = folder.resolve() / plan.replaces
    return aside if aside.is_dir() and not aside.is_symlink() else None


def _new_sibling(folder: Path) -> Path:
    """Create a sibling folder named after the time; a subfolder if a sibling is on another disk or not writable."""
    place = folder.resolve()
    stamp = f"replaced-{datetime.now():%Y%m%d-%H%M%S}"
    for k in range(1000):
        suffix = f"{stamp}-{k}" if k else stamp
        beside = place.with_name(f"{place.name}.{suffix}")
        if place.parent.stat().st_dev != place.stat().st_dev or not os.access(place.parent, os.W_OK):
            beside = place / suffix
        with suppress(FileExistsError):
            beside.mkdir()
            return beside
    raise ConflictError(f"too many folders {place.name}.{stamp}-… beside {folder}", remedy="delete some of them")


def _read_documents(folder: Path) -> Found:
    """The manifest and the plan in a folder; None for each that is missing or unreadable."""
    manifest = plan = None
    with suppress(InputError):
        manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    with suppress(ValueError):
        plan = Plan.read(folder)
    return Found(manifest, plan)


def _listed_files(folder: Path, documents: Found) -> list[str]:
    """The files that a manifest and a plan list, including those of nested artifacts, without the two themselves."""
    names: dict[str, None] = {}
    parts: dict[str, None] = {}
    if (m := documents.manifest) is not None:
        names |= dict.fromkeys([*(f["name"] for f in m.files), *_checkpoints(folder, m)])
        parts |= dict.fromkeys(_parts(folder, m))
    if (p := documents.plan) is not None:
        names |= dict.fromkeys(p.made)
        parts |= dict.fromkeys(p.parts)
    for part in parts:
        own = _read_documents(folder / part)
        if own != Found(None, None):
            inner = [
                *_listed_files(folder / part, own),
                LOCK,
                PLAN,
                MANIFEST,
            ]  # PLAN and MANIFEST last: they list the others
            names |= dict.fromkeys(f"{part}/{name}" for name in inner)
    return list(names)


def _move(source: Path, target: Path, names: list[str]) -> None:
    """Move the files that exist, and delete the folders that are then empty."""
    for name in names:
        if not is_inside(source, name):
            continue
        if os.path.lexists(target / name):
            raise ConflictError(f"{target / name} already exists and is not a file of this run", remedy=_ELSEWHERE)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).rename(target / name)
    _remove_empty(source, names)
    sync(target)


def is_inside(folder: Path, name: str) -> bool:
    """Whether a file exists in a folder and its path contains no symbolic link."""
    try:
        found = [(folder / p).lstat() for p in (PurePosixPath(name), *PurePosixPath(name).parents[:-1])]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return all(stat.S_ISDIR(f.st_mode) for f in found[1:]) and not stat.S_ISDIR(found[0].st_mode)


def _remove_empty(folder: Path, names: Iterable[str]) -> None:
    """Delete the folders that contained these files, if they are empty."""
    above = {p for name in names for p in PurePosixPath(name).parents[:-1]}
    for path in sorted(above, key=lambda p: -len(p.parts)):
        with suppress(OSError):
            (folder / path).rmdir()


def _delete_temporary(folder: Path, plan: Plan) -> None:
    """Delete the temporary files and folders whose names contain the token of the plan."""
    places = {folder} | {folder / p for name in plan.made for p in PurePosixPath(name).parents[:-1]}
    for place in places:
        with suppress(OSError):
            for path in list(place.glob(f".*.{plan.token}.tmp")):
                path.unlink()
    for scratch in [*folder.glob(f".{plan.token}.saving"), *folder.glob(f".{plan.token}.*.saving")]:
        if scratch.is_dir() and not scratch.is_symlink():
            shutil.rmtree(scratch)
