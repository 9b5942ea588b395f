"""Installed distributions, read from their ``.dist-info`` folders without importing anything."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from grpoenv.errors import OperationError

__all__ = ["Distribution", "distributions", "installed_versions", "leftovers"]

_REQUIRES = re.compile(r"^requires-dist:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
"""One header; the parser of the standard library takes longer than all that is done with them."""


@dataclass(frozen=True)
class Distribution:
    """One installed distribution; ``info`` is its ``.dist-info`` (or ``.egg-info``) path."""

    name: NormalizedName
    version: Version
    info: Path

    def recorded_files(self) -> list[tuple[str, int | None]] | None:
        """Return each file of RECORD with its size in bytes, None where it states no size.

        Paths are absolute and normalised, and may lie outside the environment. They are texts,
        because a stack has tens of thousands. None means that there is no RECORD, as in packages
        of the system and in ``.egg-info`` ones.
        """
        rows = self._rows()
        if rows is None:
            return None
        base = self._base
        return [
            (_joined(base, row[0]), int(row[2]) if len(row) > 2 and row[2].isdigit() else None)
            for row in rows
        ]

    def fingerprint(self) -> bytes:
        """Return what changes when other files are installed: the place and the RECORD."""
        try:
            return str(self.info).encode() + (self.info / "RECORD").read_bytes()
        except OSError:
            return str(self.info).encode() + b" no RECORD"

    def recorded_hashes(self) -> list[tuple[str, str, str]]:
        """Return path, algorithm and digest (URL-safe base64, unpadded) of each hashed file.

        Compiled ``.pyc`` files are left out: Python rewrites them at will.
        """
        base = self._base
        return [
            (_joined(base, row[0]), algorithm, digest)
            for row in self._rows() or ()
            if len(row) > 1 and not row[0].endswith(".pyc")
            for algorithm, equals, digest in [row[1].partition("=")]
            if equals
        ]

    def _rows(self) -> list[list[str]] | None:
        try:
            with (self.info / "RECORD").open(newline="", encoding="utf-8") as file:
                return [row for row in csv.reader(file) if row]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except csv.Error as error:
            raise ValueError(f"{self.info / 'RECORD'}: {error}") from error

    @property
    def _base(self) -> str:
        return f"{self.info.parent}{os.sep}"

    def requires(self) -> list[str]:
        """Return the texts of ``Requires-Dist``, empty where there is no metadata."""
        for name in ("METADATA", "PKG-INFO"):
            path = self.info / name if self.info.is_dir() else self.info
            if path.is_file():
                headers, _, _ = path.read_text("utf-8", errors="replace").partition("\n\n")
                return [" ".join(value.split()) for value in _REQUIRES.findall(headers)]
        return []


def distributions(folders: Iterable[str | Path]) -> dict[NormalizedName, Distribution]:
    """Return what is installed in ``folders``; where two have a name, the first folder wins.

    A name that stands twice in one folder (half-removed leftovers of an interrupted install) is
    reported by ``grpoenv.checks.record``; here the newest counts.
    """
    found: dict[NormalizedName, Distribution] = {}
    for folder in folders:
        here: dict[NormalizedName, Distribution] = {}
        for distribution in _in_folder(Path(folder)):
            other = here.get(distribution.name)
            if other is None or other.version < distribution.version:
                here[distribution.name] = distribution
        found = {**here, **found}
    return dict(sorted(found.items()))


def leftovers(installed: Mapping[NormalizedName, Distribution]) -> list[Distribution]:
    """Return older copies of what is ``installed``: ``.dist-info`` folders beside the counting one.

    An uninstall that was cut off leaves them, and then two versions claim to be there.
    """
    counting = {distribution.info for distribution in installed.values()}
    folders = {info.parent for info in counting}
    return [
        distribution
        for folder in sorted(folders)
        for distribution in _in_folder(folder)
        if distribution.info not in counting and installed[distribution.name].info.parent == folder
    ]


def installed_versions(
    installed: dict[NormalizedName, Distribution],
) -> dict[NormalizedName, Version]:
    """Return the version, local part included, of each installed distribution."""
    return {name: distribution.version for name, distribution in installed.items()}


def _joined(base: str, recorded: str) -> str:
    return os.path.normpath(base + recorded) if ".." in recorded else base + recorded


def _in_folder(folder: Path) -> Iterator[Distribution]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OperationError(f"{folder} cannot be listed: {error.strerror}") from error
    for entry in names:
        stem, dot, ending = entry.rpartition(".")
        if dot and ending in ("dist-info", "egg-info"):
            name, version = _name_and_version(stem, folder / entry)
            if version is not None:
                yield Distribution(canonicalize_name(name), version, folder / entry)


def _name_and_version(stem: str, info: Path) -> tuple[str, Version | None]:
    """Read name and version off the folder's name, or off its metadata where that has none."""
    parts = stem.split("-")
    if len(parts) > 1:
        try:
            return parts[0], Version(parts[1])
        except InvalidVersion:
            pass  # a name with a dash in it: the metadata tells
    for file in ("METADATA", "PKG-INFO"):
        if (info / file).is_file():
            text = (info / file).read_text("utf-8", errors="replace")
            headers = HeaderParser().parsestr(text, headersonly=True)
            try:
                return str(headers["Name"]), Version(str(headers["Version"]))
            except InvalidVersion:
                return stem, None
    return stem, None
