"""Change an environment so that it is either as it was or as planned, whatever happens between.

uv is not transactional: killed half-way, it leaves packages gone or in pieces, and a second run may
then report success with files missing. So before anything is changed, a *journal* is laid down in
``<site-packages>/.grpoenv``: the list of all files, and a hard link (a copy, where links cannot be)
of every file of the packages that will be replaced (installers put new files in the place of old
ones, they do not write into them). A change that ends well removes the journal. One
that does not is undone from it: at once, or by the next grpoenv that comes along after a kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.utils import NormalizedName, canonicalize_name

from grpoenv.distributions import Distribution, distributions
from grpoenv.errors import OperationError
from grpoenv.probe import Interpreter

__all__ = ["Journal", "is_interrupted", "locked", "open_journal", "recover", "state_folder"]

_LOCK_TIMEOUT_S = 5.0


def state_folder(interpreter: Interpreter) -> Path:
    """Return the folder beside the packages where grpoenv keeps its journal and its record."""
    return Path(interpreter.purelib) / ".grpoenv"


@contextlib.contextmanager
def locked(interpreter: Interpreter, *, timeout_s: float = _LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the environment's lock; raises OperationError if another grpoenv has it.

    uv's own lock is no help here: after its time is over uv goes on without it.
    """
    from filelock import FileLock, Timeout

    folder = state_folder(interpreter)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=timeout_s)
        lock.acquire()
    except Timeout as error:
        raise OperationError(
            f"another grpoenv is changing this environment (it holds {folder / 'lock'})",
            remedy="wait until it has ended, and run the command again",
        ) from error
    except OSError as error:
        raise OperationError(
            f"{folder.parent} cannot be written: {error.strerror or error}",
            remedy="install into an environment of your own: add --venv .venv",
        ) from error
    with lock:
        try:
            yield
        finally:
            lock.release()


class Journal:
    """What is needed to put an environment back as it was."""

    def __init__(self, folder: Path, roots: list[str], names: set[NormalizedName]) -> None:
        self._folder = folder
        self._roots = roots
        self._names = names

    def commit(self) -> None:
        """Keep the change: from here on there is nothing to go back to."""
        done = self._folder.with_name("journal.done")
        self._folder.rename(done)
        shutil.rmtree(done)

    def roll_back(self) -> None:
        """Put every file back as it was when the journal was opened, and close it.

        An interrupt in the middle of it is not heard: it asks for what is being done already.
        """
        with _uninterrupted():
            self._roll_back()

    def _roll_back(self) -> None:
        before = zlib.decompress((self._folder / "before.z").read_bytes()).decode(
            "utf-8", "surrogateescape"
        )
        saved = [
            (Path(file), self._folder / "saved" / link)
            for file, link in json.loads((self._folder / "saved.json").read_text("utf-8"))
        ]
        self._remove_new(set(before.split("\0")))
        self._restore(saved)
        self.commit()

    def _remove_new(self, known: set[str]) -> None:
        """Remove what was not there before, unless a package outside the plan owns it."""
        installed = distributions(self._roots)
        foreign = {
            path
            for name, distribution in installed.items()
            if name not in self._names
            for path, _ in distribution.recorded_files() or []
        }
        ours = {
            path
            for name in self._names & installed.keys()
            for path, _ in installed[name].recorded_files() or []
            if _inside(path, self._roots)
        }
        emptied = set()
        for file in (ours | set(_files(self._roots))) - known - foreign:
            Path(file).unlink(missing_ok=True)
            emptied.add(str(Path(file).parent))
        for folder in sorted(emptied, key=len, reverse=True):
            _remove_empty(Path(folder), self._roots)

    def _restore(self, saved: Iterable[tuple[Path, Path]]) -> None:
        for target, source in saved:
            if not (target.exists() and target.samefile(source)):
                target.parent.mkdir(parents=True, exist_ok=True)
                aside = target.with_name(f"{target.name}.grpoenv")
                _link_or_copy(source, aside)
                aside.replace(target)


def open_journal(
    interpreter: Interpreter,
    installed: dict[NormalizedName, Distribution],
    names: Iterable[NormalizedName],
    leftovers: Iterable[Distribution] = (),
) -> Journal:
    """Save what is needed to undo a change of the packages ``names``, and return the journal.

    ``leftovers`` are half-removed copies, whose metadata is saved with the rest.

    Call it under the lock. Raises OperationError, with nothing changed, if a package cannot be put
    back: it has no RECORD, or its RECORD names a file outside the environment.
    """
    names = set(names)
    roots = _roots(interpreter)
    folder = state_folder(interpreter) / "journal"
    draft = folder.with_name("journal.draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "saved").mkdir(parents=True)
    saved = list[tuple[str, str]]()
    for distribution in (*(installed[name] for name in names & installed.keys()), *leftovers):
        if str(distribution.info.parent) in roots:
            saved.extend(_save(distribution, interpreter, draft / "saved", len(saved)))
    _write_synced(draft / "saved.json", json.dumps(saved).encode())
    listing = "\0".join(_files(roots)).encode("utf-8", "surrogateescape")
    _write_synced(draft / "before.z", zlib.compress(listing, level=1))
    _write_synced(
        draft / "plan.json", json.dumps({"roots": roots, "names": sorted(names)}).encode()
    )
    draft.rename(folder)
    return Journal(folder, roots, names)


def is_interrupted(interpreter: Interpreter) -> bool:
    """Tell whether a change was cut off here and has not been undone yet."""
    return (state_folder(interpreter) / "journal").is_dir()


def recover(interpreter: Interpreter) -> list[str]:
    """Undo a change that was cut off; return the packages it was about, none if there was none.

    Call it under the lock.
    """
    folder = state_folder(interpreter)
    for leftover in ("journal.draft", "journal.done"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    journal = folder / "journal"
    if not journal.is_dir():
        return []
    try:
        plan = json.loads((journal / "plan.json").read_text("utf-8"))
        names = [canonicalize_name(name) for name in plan["names"]]
        Journal(journal, plan["roots"], set(names)).roll_back()
    except (ValueError, KeyError, TypeError, FileNotFoundError, zlib.error) as error:
        raise OperationError(
            f"an earlier change was cut off, and its journal {journal} cannot be read: {error}",
            remedy="make the environment anew; or remove that folder, and run grpoenv install",
        ) from error
    return [str(name) for name in names]


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def _roots(interpreter: Interpreter) -> list[str]:
    """Return the folders that wheels put files into."""
    data = [str(Path(interpreter.data) / name) for name in ("share", "etc", "include")]
    folders = (interpreter.purelib, interpreter.platlib, interpreter.scripts, *data)
    return list(dict.fromkeys(folders))


def _files(roots: list[str]) -> Iterator[str]:
    """Yield every file and link below ``roots`` but for grpoenv's own and Python's caches."""
    for root in roots:
        for folder, subfolders, files in os.walk(root):
            links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
            subfolders[:] = [name for name in subfolders if name not in (".grpoenv", "__pycache__")]
            for name in (*files, *links):
                yield os.path.join(folder, name)


def _save(
    distribution: Distribution, interpreter: Interpreter, folder: Path, first: int
) -> Iterator[tuple[str, str]]:
    recorded = distribution.recorded_files()
    label = f"{distribution.name} {distribution.version}"
    if recorded is None and distribution.info.suffix == ".dist-info":
        recorded = [(file, None) for file in _files([str(distribution.info)])]
    if recorded is None:
        raise OperationError(
            f"{label} has no RECORD (the system's package manager may own it), so it can be "
            "neither replaced nor put back",
            remedy="install into an environment of your own: add --venv .venv",
        )
    allowed = [*_roots(interpreter), interpreter.prefix, interpreter.data]
    for path, _ in recorded:
        if not _inside(path, allowed):
            raise OperationError(
                f"RECORD of {label} names {path}, which is outside the environment",
                remedy=f"remove {label} by hand, and run the command again",
            )
        if os.path.isfile(path) and not path.endswith(".pyc"):
            link = str(first)
            first += 1
            _link_or_copy(Path(path), folder / link)
            yield path, link


def _inside(path: str, folders: Iterable[str]) -> bool:
    real = os.path.realpath(os.path.dirname(path))
    return any(
        os.path.commonpath([real, os.path.realpath(folder)]) == os.path.realpath(folder)
        for folder in folders
    )


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _remove_empty(folder: Path, roots: list[str]) -> None:
    """Remove ``folder`` and its parents as far as they hold nothing but Python's caches."""
    while str(folder) not in roots and _inside(str(folder), roots) and folder.is_dir():
        if any(entry.name != "__pycache__" for entry in folder.iterdir()):
            return
        shutil.rmtree(folder)
        folder = folder.parent


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
