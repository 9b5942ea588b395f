"""The files of one wheel, read as the files of an installed package are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.wheels.archive import Archive
from grpoenv.wheels.errors import DamagedWheel, TransferError, WheelError
from grpoenv.wheels.range_file import RangeFile
from grpoenv.wheels.store import SpanStore
from grpoenv.wheels.transfer import CONNECTIONS, RangeClient, Span

__all__ = ["WheelFile", "WheelTree", "fetch_sources", "open_wheels"]

WHOLE_BYTES: Final = 2 * 2**20
"""Smaller wheels are fetched whole: one request instead of three."""
_TAIL_BYTES: Final = 72 * 1024
"""More than the longest end record of an archive, and the whole table of contents of most."""
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")


@dataclass(frozen=True)
class WheelFile:
    """A published wheel: where it is, and what the index says of it.

    ``url`` is an address, or empty for a wheel at ``path``; ``size`` is in bytes, None where the
    index does not tell, as ``sha256`` is empty where it does not.
    """

    name: NormalizedName
    version: Version
    filename: str
    url: str = ""
    path: Path | None = None
    size: int | None = None
    sha256: str = ""


class WheelTree:
    """The files of a wheel as they will lie in site-packages.

    What ``.data/purelib`` and ``.data/platlib`` hold counts as lying there too. A file is fetched
    together with all of its kind: reading one module fetches the modules of the wheel.
    """

    def __init__(self, wheel: WheelFile, client: RangeClient, store: SpanStore) -> None:
        self.wheel = wheel
        self._client = client
        self._store = store
        self._file = self._opened()
        self._archive = self._read_contents()
        self._members = dict(_installed_names(self._archive.names, wheel))

    @property
    def name(self) -> NormalizedName:
        """The canonical name of the distribution."""
        return self.wheel.name

    @property
    def version(self) -> Version:
        """Its version, local part included."""
        return self.wheel.version

    def paths(self) -> Sequence[str]:
        """Return the POSIX path of every file, relative to site-packages."""
        return list(self._members)

    def read(self, path: str) -> bytes:
        """Return the content of one file.

        Raises KeyError if there is no such file, OSError if it cannot be read or is damaged.
        """
        member = self._members[path]
        try:
            self._load([member])
            return self._archive.read(member)
        except WheelError as error:
            raise OSError(error.message) from error

    def locate(self, path: str) -> str:
        """Return the wheel's file name and the path in it."""
        return f"{self.wheel.filename}/{self._members.get(path, path)}"

    def metadata(self) -> str:
        """Return the text of METADATA; raises WheelError."""
        names = [name for name in self._archive.names if _METADATA.fullmatch(name)]
        if len(names) != 1:
            raise DamagedWheel(f"{self.wheel.filename} has {len(names)} METADATA files, not one")
        self._load(names)
        return self._archive.read(names[0]).decode("utf-8", errors="replace")

    def missing_sources(self) -> list[tuple[int, int]]:
        """Return the parts of the wheel that are to be fetched to read all its modules."""
        return self._file.missing(self._archive.spans(self._sources()))

    def fetch(self, start: int, end: int) -> None:
        """Fetch one part; raises WheelError."""
        self._file.add(self._span(start, end))

    def save(self) -> None:
        """Keep what was fetched in the cache."""
        if self.wheel.url:
            self._store.save(self.wheel.sha256, self._file)

    def _sources(self) -> list[str]:
        return [name for name in self._archive.names if name.endswith(".py")]

    def _load(self, members: Sequence[str]) -> None:
        gaps = self._file.missing(self._archive.spans(members))
        if not gaps:
            return
        if any(name.endswith(".py") for name in members):
            fetch_sources([self])
            return
        for gap in gaps:
            self.fetch(*gap)
        self.save()

    def _opened(self) -> RangeFile:
        wheel = self.wheel
        if wheel.path is not None:
            return RangeFile(wheel.path.stat().st_size, self._span)
        if wheel.size is None:
            tail = self._client.tail(wheel.url, _TAIL_BYTES, None)
            file = RangeFile(tail.total, self._span)
            file.add(tail)
            self._store.load(wheel.sha256, file)
            return file
        file = RangeFile(wheel.size, self._span)
        if self._store.load(wheel.sha256, file):
            return file
        if wheel.size <= WHOLE_BYTES:
            file.add(self._proven(self._client.whole(wheel.url, wheel.size)))
        else:
            file.add(self._proven(self._client.tail(wheel.url, _TAIL_BYTES, wheel.size)))
        return file

    def _read_contents(self) -> Archive:
        archive = Archive(self._file, self.wheel.filename)  # type: ignore[arg-type]
        self.save()
        return archive

    def _span(self, start: int, end: int) -> Span:
        if self.wheel.path is None:
            return self._proven(self._client.span(self.wheel.url, start, end, self._file.size))
        with self.wheel.path.open("rb") as file:
            file.seek(start)
            return Span(start, file.read(end - start), self._file.size)

    def _proven(self, span: Span) -> Span:
        """Return ``span``; raises where it is a whole wheel and another one than the index has."""
        whole = len(span.data) == span.total
        if whole and self.wheel.sha256:
            found = hashlib.sha256(span.data).hexdigest()
            if found != self.wheel.sha256:
                raise DamagedWheel(
                    f"{self.wheel.filename} has the SHA-256 {found}, and the index says "
                    f"{self.wheel.sha256}"
                )
        return span


def open_wheels(
    wheels: Iterable[WheelFile], client: RangeClient, store: SpanStore
) -> tuple[dict[NormalizedName, WheelTree], dict[NormalizedName, WheelError]]:
    """Open ``wheels`` at the same time; return those that can be read, and why the others cannot.

    Only their tables of contents and METADATA are fetched.
    """
    listed = list(wheels)
    trees: dict[NormalizedName, WheelTree] = {}
    errors: dict[NormalizedName, WheelError] = {}

    def opened(wheel: WheelFile) -> WheelTree | WheelError:
        try:
            tree = WheelTree(wheel, client, store)
            tree.metadata()
            return tree
        except WheelError as error:
            return error
        except OSError as error:
            return TransferError(f"{wheel.path} cannot be read: {error.strerror or error}")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for wheel, result in zip(listed, pool.map(opened, listed), strict=True):
            if isinstance(result, WheelTree):
                trees[wheel.name] = result
            else:
                errors[wheel.name] = result
    return trees, errors


def fetch_sources(trees: Iterable[WheelTree]) -> None:
    """Fetch the modules of ``trees``, all at the same time; raises WheelError."""
    parts = [(tree, start, end) for tree in trees for start, end in tree.missing_sources()]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda part: part[0].fetch(part[1], part[2]), parts))
    for tree in {id(part[0]): part[0] for part in parts}.values():
        tree.save()


def _installed_names(names: Iterable[str], wheel: WheelFile) -> Iterable[tuple[str, str]]:
    """Yield the path in site-packages and the name in the archive of each file."""
    folders = tuple(
        f"{'-'.join(wheel.filename.split('-')[:2])}.data/{kind}/" for kind in ("purelib", "platlib")
    )
    for name in names:
        folder = next((folder for folder in folders if name.startswith(folder)), "")
        yield name.removeprefix(folder), name
