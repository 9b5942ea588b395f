"""The files of a zip archive, read only after what it claims about itself has been checked.

A wheel comes from outside. Names that leave the folder, files that overlap, sizes that cannot be,
encryption, links and unknown compression are refused before anything is unpacked; what is unpacked
is bounded by its declared size and proven by its CRC.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import IO, Final

from grpoenv.wheels.errors import DamagedWheel

__all__ = ["Archive"]

MEMBER_LIMIT_BYTES: Final = 16 * 2**20
"""Larger files are not read: the largest module of the stack has 0.6 MB."""
MEMBERS_LIMIT: Final = 200_000
RATIO_LIMIT: Final = 200
"""A larger file that shrank more than this is a bomb: sources shrink to a third or a tenth."""
_RATIO_FREE_BYTES: Final = 2**20
_GAP_BYTES: Final = 256 * 1024
"""Files as near as this are fetched together: a request costs more than that many bytes."""
_RUN_BYTES: Final = 4 * 2**20
"""Longer runs are cut, so that the pieces come at the same time."""
_LOCAL_HEADER_BYTES: Final = 30
_ENCRYPTED: Final = 0x1
_KNOWN_COMPRESSION: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNSAFE_NAME = re.compile(r"^/|^[A-Za-z]:|\\|\0|(^|/)\.\.?(/|$)|//")
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    struct.error,
    ValueError,
)
"""What zipfile raises on archives that are broken or made to break it."""


class Archive:
    """A zip archive ``file``, called ``label`` in errors.

    Raises DamagedWheel if it is none, or claims what cannot be; and what ``file`` raises.
    """

    def __init__(self, file: IO[bytes], label: str) -> None:
        self._label = label
        try:
            self._zip = zipfile.ZipFile(file)
            members = self._zip.infolist()
            contents_start = self._zip.start_dir
        except _ERRORS as error:
            raise DamagedWheel(f"{label} is no readable archive: {error}") from error
        if len(members) > MEMBERS_LIMIT:
            raise DamagedWheel(f"{label} lists {len(members):,} files")
        self._ends = _ends(members, contents_start, label)
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            self._add(member)

    @property
    def names(self) -> Sequence[str]:
        """The name of every file, in the order of the table of contents."""
        return list(self._members)

    def spans(self, names: Iterable[str]) -> list[tuple[int, int]]:
        """Return the parts (start, end) of the archive to fetch for ``names``, neighbours joined.

        Raises KeyError for a name that is not there.
        """
        spans: list[tuple[int, int]] = []
        for start in sorted(self._members[name].header_offset for name in names):
            end = self._ends[start]
            joins = spans and start - spans[-1][1] <= _GAP_BYTES
            if joins and end - spans[-1][0] <= _RUN_BYTES:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        return spans

    def read(self, name: str) -> bytes:
        """Return one file, its CRC proven.

        Raises KeyError if there is none of that name, DamagedWheel if it is not what it claims.
        """
        member = self._members[name]
        if member.file_size > MEMBER_LIMIT_BYTES:
            raise DamagedWheel(
                f"{self._label}: {name} has {member.file_size:,} bytes, more than "
                f"{MEMBER_LIMIT_BYTES:,}"
            )
        if member.file_size > max(RATIO_LIMIT * member.compress_size, _RATIO_FREE_BYTES):
            raise DamagedWheel(
                f"{self._label}: {name} would unpack {member.compress_size:,} bytes to "
                f"{member.file_size:,}"
            )
        try:
            content = self._zip.read(member)
        except _ERRORS as error:
            raise DamagedWheel(f"{self._label}: {name}: {error}") from error
        if len(content) != member.file_size:
            raise DamagedWheel(
                f"{self._label}: {name} has {len(content):,} bytes, declared {member.file_size:,}"
            )
        return content

    def _add(self, member: zipfile.ZipInfo) -> None:
        name = member.orig_filename
        reason = _refusal(member)
        if not reason and name in self._members:
            reason = "is there twice"
        if reason:
            raise DamagedWheel(f"{self._label}: {name!r} {reason}")
        if not member.is_dir():
            self._members[name] = member


def _refusal(member: zipfile.ZipInfo) -> str:
    """Return why ``member`` is not to be touched, empty if nothing speaks against it."""
    if not member.filename or _UNSAFE_NAME.search(member.orig_filename):
        return "is no name for a file of a package"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in _KNOWN_COMPRESSION:
        return f"is compressed in an unknown way ({member.compress_type})"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a symbolic link"
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        return f"is stored as it is, in {member.compress_size} bytes for {member.file_size}"
    return ""


def _ends(members: Sequence[zipfile.ZipInfo], contents: int, label: str) -> dict[int, int]:
    """Return where each member ends, by its start; raises DamagedWheel where two overlap."""
    ordered = sorted(members, key=lambda member: member.header_offset)
    starts = [member.header_offset for member in ordered]
    ends = {}
    for member, start, end in zip(ordered, starts, [*starts[1:], contents], strict=True):
        least = start + _LOCAL_HEADER_BYTES + len(member.orig_filename) + member.compress_size
        if start < 0 or least > end:
            raise DamagedWheel(
                f"{label}: {member.orig_filename!r} reaches beyond its end: its "
                f"{member.compress_size:,} bytes from {start:,} overlap what follows at {end:,}"
            )
        ends[start] = end
    return ends
