"""The folder of an artifact while it is written: who holds it, which files in it are ours, what was there before.

A plan, ``unfinished.json``, names every file of a run before the run makes it. What neither a plan nor a manifest names
is somebody else's: it is never removed, moved, written over or listed. What a rewrite replaces is moved to a folder
beside, and removed from there once the new artifact is whole.
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
from tokalign.errors import ConflictError, InputError, LockedError
from tokalign.runtime.disk import is_regular, mode, read_regular, sealed, sha256, sync, unseal, write_at

LOCK, PROGRESS, CHECKPOINTS = ".lock", "progress.json", "checkpoints"
STAYS = (LOCK, JOURNAL, ANNOTATIONS)
"""What is there before a run and after it: what was paid, and what a person did, is not thrown away."""
_ELSEWHERE = "move it elsewhere, or choose another --out"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder.

    Raises:
        LockedError: another process holds it; with its number.
        ConflictError: what lies there under the lock's name is none.
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
        raise ConflictError(f"{path} is not a lock of ours", remedy=_ELSEWHERE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise LockedError(
                f"{folder} is being written by process {held.decode() or '?'}",
                remedy="wait for it to end, or choose another --out",
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
_WHAT = "the plan of an unfinished run"


@dataclass(frozen=True)
class Plan:
    """``unfinished.json``: a run that has not come to its end, and the files that are its own."""

    token: str
    """Stands in the name of whatever is half written."""
    fingerprint: dict[str, Any]
    """What decides the rows; see :meth:`tokalign.artifacts.writer.Writer.fingerprint`."""
    began: float
    spent: float = 0.0
    """Seconds that earlier, cut runs took."""
    made: list[str] = field(default_factory=list)
    """Paths within the folder of files that the run has made, or was about to make."""
    parts: list[str] = field(default_factory=list)
    """Artifacts within the folder that are a part of this one."""
    replaces: str | None = None
    """Where what was there before has been put, relative to the folder."""

    @classmethod
    def read(cls, folder: Path) -> "Plan | None":
        """The plan in a folder; None if there is none.

        Raises:
            ValueError: it cannot be read, or was changed.
        """
        try:
            raw, is_sealed = unseal(read_regular(folder / PLAN))
            if not is_sealed:
                raise ValueError("it bears no seal; perhaps a run of an older version")
            found = _FIELDS.validate_python(raw)
            for name in (*found["made"], *found["parts"]):
                check_name(name)
            del raw["tokalign"]
            return cls(**raw)
        except FileNotFoundError:
            return None
        except ValidationError as e:
            raise ValueError(f"not {_WHAT}: {e.errors()[0]['msg']}") from e
        except OSError as e:
            raise ValueError(str(e.strerror)) from e

    @property
    def text(self) -> str:
        """What is written."""
        return sealed({"tokalign": _WHAT, **asdict(self)})


class Found(NamedTuple):
    """What of ours lies in a folder."""

    manifest: Manifest | None
    plan: Plan | None


def look(folder: Path) -> Found:
    """Find out what lies in a folder in which something is to be written.

    Raises:
        ConflictError: things that are not ours, or that were ours and are damaged; nothing there says what may go.
        InputError: an artifact by a newer version.
    """
    manifest = None
    try:
        plan = Plan.read(folder)
    except ValueError as e:
        remedy = f"move what you need out of it ({JOURNAL} holds what was paid), or choose another --out"
        raise ConflictError(f"{folder / PLAN} is damaged or not ours: {e}", remedy=remedy) from e
    if os.path.lexists(folder / MANIFEST):
        try:
            manifest = Manifest.read(folder)
        except InputError as e:
            if "newer" in str(e):
                raise
            raise ConflictError(f"{_others(folder)} in {folder}: {e}", remedy=_ELSEWHERE) from e
    if manifest is None and plan is None and (others := _others(folder)):
        raise ConflictError(
            f"{folder} is not empty and not an artifact of tokalign: {others} in the way", remedy=_ELSEWHERE
        )
    return Found(manifest, plan)


def _others(folder: Path, most: int = 5) -> str:
    """The names of what lies there besides what a refused or killed run of ours may leave, or ""."""
    left = f".{PLAN}."
    names = sorted(p.name for p in folder.iterdir() if p.name not in STAYS and not p.name.startswith(left))
    told = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f"{told} {'stands' if len(names) == 1 else 'stand'}" if names else ""


class Workspace:
    """The files of one run in a folder that this process holds locked.

    Args:
        folder: where.
        plan: of the run; None in processes that leave the writing to another: then nothing here writes.
    """

    def __init__(self, folder: Path, plan: Plan | None) -> None:
        self.folder, self._plan = folder, plan
        self._made = set(plan.made) if plan else set()

    @classmethod
    def at(cls, folder: Path) -> "Workspace":
        """A folder for work that is no artifact: a new plan, or that of earlier work there."""
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
        """Name of a folder for a library that writes now and then, and makes it itself; see :meth:`place`."""
        return f".{self.plan.token}.saving"

    def save(self, **changes: Any) -> None:
        """Write the plan down, with changes."""
        self._plan = replace(self.plan, made=sorted(self._made), **changes)
        write_at(self.temporary(PLAN), self.folder / PLAN, self._plan.text)

    def claim(self, *names: str) -> None:
        """Name files that are about to be made.

        Raises:
            ConflictError: something that is not of this run is in the way.
        """
        new = [name for name in names if name not in self._made]
        if not new or self._plan is None:
            return
        for name in new:
            self.refuse_taken(name)
        self._made |= set(new)
        self.save()

    def adopt(self, names: Iterable[str]) -> None:
        """Name files that a library has just made under names of its own."""
        if self._plan is not None and (new := set(names) - self._made):
            self._made |= new
            self.save()

    def refuse_taken(self, name: str) -> None:
        """See :meth:`claim`."""
        for above in PurePosixPath(name).parents[:-1]:
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR((self.folder / above).lstat().st_mode):
                    raise ConflictError(f"{self.folder / above} is in the way: not a folder", remedy=_ELSEWHERE)
        if name not in self._made and os.path.lexists(self.folder / name):
            raise ConflictError(
                f"{self.folder / name} is in the way: it is not of this run", remedy=f"{_ELSEWHERE}; then run it again"
            )

    def part(self, name: str) -> Path:
        """Name an artifact within this one that is a part of it; returns its folder."""
        if self._plan is not None and name not in self.plan.parts:
            self.refuse_taken(name)
            self.save(parts=[*self.plan.parts, name])
        return self.folder / name

    def temporary(self, name: str) -> Path:
        """Where a file of ours is written before it takes its name."""
        path = self.folder / name
        return path.with_name(f".{path.name}.{self.plan.token}.tmp")

    def write(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""
        if self._plan is None:
            return
        self.claim(name)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_at(self.temporary(name), self.folder / name, text)

    @contextmanager
    def saving(self, below: str = "") -> Iterator[Path]:
        """A folder for a library to write into; when the block ends well, its files are moved to ``below``."""
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
        """Move the files of a scratch folder to ``below``; ``last``: the name of that which vouches for the others."""
        paths = sorted((p for p in source.rglob("*") if p.is_file()), key=lambda p: (p.name == last, p))
        lead = f"{below}/" if below else ""
        names = [f"{lead}{p.relative_to(source).as_posix()}" for p in paths]
        self.claim(*names)
        folders: dict[Path, None] = {}
        for path, name in zip(paths, names, strict=True):
            path.chmod(mode())  # some libraries make files that nobody else may read
            sync(path)
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            folders[target.parent] = None
        for folder in folders:
            sync(folder)

    def names(self, below: str = "") -> list[str]:
        """The files of this run, or those below a folder."""
        return sorted(n for n in self._made if not below or n == below or n.startswith(f"{below}/"))

    def remove(self, name: str) -> None:
        """Remove a file of this run, or all that lie below a folder; what others put there stays."""
        if self._plan is None or not (gone := self.names(name)):
            return
        for path in gone:
            if is_inside(self.folder, path):
                (self.folder / path).unlink()
        _remove_empty(self.folder, gone)
        self._made -= set(gone)
        self.save()

    def renamed(self, old: str, new: str) -> None:
        """Give a file of this run another name."""
        self.claim(new)
        (self.folder / old).replace(self.folder / new)
        self._made.discard(old)
        self.save()

    def sweep(self) -> None:
        """Remove what was half written when a run was killed."""
        if self._plan is not None:
            _sweep(self.folder, self.plan)


def new_plan(fingerprint: dict[str, Any], **more: Any) -> Plan:
    """The plan of a run that begins now."""
    return Plan(secrets.token_hex(4), fingerprint, time.time(), **more)


def plan_of(folder: Path, manifest: Manifest, fingerprint: dict[str, Any]) -> Plan:
    """The plan of a run that goes on from a finished artifact: its files are the run's."""
    made = [f["name"] for f in manifest.files] + _checkpoints(folder, manifest)
    return new_plan(fingerprint, spent=manifest.seconds, made=made, parts=_parts(folder, manifest))


def spent(folder: Path, plan: Plan) -> float:
    """Seconds that went into an unfinished run until it last wrote something."""
    times = [plan.began]
    for name in (PLAN, *plan.made):
        with suppress(OSError):
            times.append((folder / name).lstat().st_mtime)
    return plan.spent + max(0.0, max(times) - plan.began)


def _checkpoints(folder: Path, manifest: Manifest) -> list[str]:
    """Files of checkpoints; of older versions, whose manifests do not name them, by the seals of these."""
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
    """Artifacts that are a part of this one; older versions do not name them."""
    if manifest.tokalign != "0.1.0" or manifest.kind != "winrates":
        return manifest.parts
    paths = [folder / "judgements", *folder.glob("responses/*")]
    return [p.relative_to(folder).as_posix() for p in paths if _of(p) != Found(None, None)]


# ── what was there before ────────────────────────────────────────────────────────────────────────────


def replace_in(folder: Path, found: Found, plan: Plan) -> Plan:
    """Move what is there of ours out of the way, and leave the plan of the run that replaces it.

    A kill on the way is noticed by the plan: :func:`complete` goes on, :func:`restore` takes it back.

    Returns:
        The plan, with where it all went.
    """
    aside = _beside(folder)
    if found.plan is not None:
        _sweep(folder, found.plan)
        write_at(aside / f".{PLAN}.tmp", aside / PLAN, found.plan.text)
    plan = replace(plan, replaces=os.path.relpath(aside, folder.resolve()))
    Workspace(folder, plan).save()
    complete(folder, plan)
    return plan


def complete(folder: Path, plan: Plan) -> None:
    """Move what is left to move to where the plan says."""
    aside = _aside(folder, plan)
    if aside is not None:
        documents = _of(aside)
        manifest = documents.manifest or _of(folder).manifest
        _move(folder, aside, _named(folder, Found(manifest, documents.plan)))
        if manifest is not None:
            _move(folder, aside, [MANIFEST])


def remove_made(folder: Path, plan: Plan) -> None:
    """Remove all that a run has made, but for its plan."""
    _sweep(folder, plan)
    names = _named(folder, Found(None, plan))
    for name in names:
        if is_inside(folder, name):
            (folder / name).unlink()
    _remove_empty(folder, names)
    Workspace(folder, replace(plan, made=[], parts=[])).save()


def restore(folder: Path, plan: Plan) -> None:
    """Bring back what a rewrite that comes to nothing has replaced; its manifest and its plan last."""
    aside = _aside(folder, plan)
    if aside is None:
        (folder / PLAN).unlink(missing_ok=True)
        return
    documents = _of(aside)
    manifest = documents.manifest or _of(folder).manifest
    _move(aside, folder, [*_named(aside, Found(manifest, documents.plan)), MANIFEST])
    if documents.plan is not None:
        (aside / PLAN).replace(folder / PLAN)
    else:
        (folder / PLAN).unlink(missing_ok=True)
    with suppress(OSError):
        aside.rmdir()
    sync(folder)


def drop(folder: Path, plan: Plan) -> list[Path]:
    """Remove what was replaced, and what that had replaced; returns folders that hold more than that, and stay."""
    kept = []
    aside = _aside(folder, plan)
    while aside is not None:
        documents = _of(aside)
        older = _aside(folder, documents.plan) if documents.plan else None
        if not _drop(aside, documents):
            kept.append(aside)
        aside = older
    return kept


def _drop(folder: Path, documents: Found) -> bool:
    """Remove a replaced artifact, but for files that are not as its manifest says; whether nothing is left."""
    hashes = {f["name"]: f["sha256"] for f in documents.manifest.files} if documents.manifest else {}
    for name in _named(folder, documents):
        path = folder / name
        if is_inside(folder, name) and (name not in hashes or (is_regular(path) and sha256(path) == hashes[name])):
            path.unlink()
    _remove_empty(folder, _named(folder, documents))
    rest = [p for p in folder.iterdir() if p.name not in (MANIFEST, PLAN)]
    if not rest:
        for name in (MANIFEST, PLAN):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    return not rest


def _aside(folder: Path, plan: Plan) -> Path | None:
    """Where a plan says that what was there has been put, if it is there and holds what it should, or nothing yet."""
    if plan.replaces is None:
        return None
    aside = folder.resolve() / plan.replaces
    return aside if aside.is_dir() and not aside.is_symlink() else None


def _beside(folder: Path) -> Path:
    """A new folder beside one, named after the time; within it, where no folder can be made beside, or on no disk."""
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
    raise ConflictError(f"too many folders {place.name}.{stamp}-… beside {folder}", remedy="remove some")


def _of(folder: Path) -> Found:
    """What of ours lies there, as far as it can be read."""
    manifest = plan = None
    with suppress(InputError):
        manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    with suppress(ValueError):
        plan = Plan.read(folder)
    return Found(manifest, plan)


def _named(folder: Path, documents: Found) -> list[str]:
    """The files that a manifest and a plan name, those of parts among them; without the two themselves."""
    names: dict[str, None] = {}
    parts: dict[str, None] = {}
    if (m := documents.manifest) is not None:
        names |= dict.fromkeys([*(f["name"] for f in m.files), *_checkpoints(folder, m)])
        parts |= dict.fromkeys(_parts(folder, m))
    if (p := documents.plan) is not None:
        names |= dict.fromkeys(p.made)
        parts |= dict.fromkeys(p.parts)
    for part in parts:
        own = _of(folder / part)
        if own != Found(None, None):
            inner = [*_named(folder / part, own), LOCK, PLAN, MANIFEST]  # these two last: they say what there is
            names |= dict.fromkeys(f"{part}/{name}" for name in inner)
    return list(names)


def _move(source: Path, target: Path, names: list[str]) -> None:
    """Move those of the files that are there; folders that are left empty go."""
    for name in names:
        if not is_inside(source, name):
            continue
        if os.path.lexists(target / name):
            raise ConflictError(f"{target / name} is in the way: it is not of this run", remedy=_ELSEWHERE)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).rename(target / name)
    _remove_empty(source, names)
    sync(target)


def is_inside(folder: Path, name: str) -> bool:
    """Whether a file of that name lies below a folder, and no link leads to where it lies."""
    try:
        found = [(folder / p).lstat() for p in (PurePosixPath(name), *PurePosixPath(name).parents[:-1])]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return all(stat.S_ISDIR(f.st_mode) for f in found[1:]) and not stat.S_ISDIR(found[0].st_mode)


def _remove_empty(folder: Path, names: Iterable[str]) -> None:
    """Remove the folders that these files were in, where nothing else is."""
    above = {p for name in names for p in PurePosixPath(name).parents[:-1]}
    for path in sorted(above, key=lambda p: -len(p.parts)):
        with suppress(OSError):
            (folder / path).rmdir()


def _sweep(folder: Path, plan: Plan) -> None:
    """Remove what bears a plan's token."""
    places = {folder} | {folder / p for name in plan.made for p in PurePosixPath(name).parents[:-1]}
    for place in places:
        with suppress(OSError):
            for path in list(place.glob(f".*.{plan.token}.tmp")):
                path.unlink()
    for scratch in [*folder.glob(f".{plan.token}.saving"), *folder.glob(f".{plan.token}.*.saving")]:
        if scratch.is_dir() and not scratch.is_symlink():
            shutil.rmtree(scratch)
