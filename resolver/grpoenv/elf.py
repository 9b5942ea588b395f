"""Shared libraries, read without loading them: what each needs, and what it gives.

Loading a library of the stack costs seconds and runs its code; the same answers stand in its
dynamic section, its symbol table and its version tables (System V ABI, and the chapter on symbol
versioning of the Linux Standard Base). What is read are 64-bit little-endian files: all that the
stack is published for. pyelftools gives the same answers (compared on the 1,663 libraries of an
unsloth environment and a Debian 12), takes twice as long, and would be one more pin in every lock.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "NotReadable",
    "SharedObject",
    "defined_symbols",
    "read_shared_object",
    "undefined_symbols",
]

_IDENT = b"\x7fELF\x02\x01"  # magic, 64 bits, little-endian
_HEADER = struct.Struct("<40xQ10xHH")  # e_shoff, e_shentsize, e_shnum
_SECTION = struct.Struct("<4xI16xQQI")  # sh_type, sh_offset, sh_size, sh_link
_SYMBOL = struct.Struct("<IBBHQQ")  # st_name, st_info, st_other, st_shndx, st_value, st_size
_DYNAMIC = struct.Struct("<qQ")  # d_tag, d_val
_NEED = struct.Struct("<2xHIII")  # vn_cnt, vn_file, vn_aux, vn_next
_NEED_NAME = struct.Struct("<8xII")  # vna_name, vna_next
_GIVEN = struct.Struct("<12xII")  # vd_aux, vd_next
_GIVEN_NAME = struct.Struct("<I4x")  # vda_name

_TYPE_DYNAMIC, _TYPE_SYMBOLS = 6, 11
_TYPE_GIVEN, _TYPE_NEED = 0x6FFFFFFD, 0x6FFFFFFE
_TAG_NEEDED, _TAG_RPATH, _TAG_RUNPATH = 1, 15, 29
_UNDEFINED_SECTION = 0
_WEAK = 2


class NotReadable(ValueError):
    """A file is no shared library, or one whose tables are damaged or stripped."""


@dataclass(frozen=True)
class SharedObject:
    """One shared library.

    ``needed`` are the sonames that it is linked with, ``folders`` where it says itself that they
    lie (RPATH and RUNPATH), ``versions`` the symbol versions that it wants of each, such as
    ``{"libc.so.6": {"GLIBC_2.28"}}``, ``defines`` those that it gives itself.
    """

    path: Path
    needed: tuple[str, ...]
    folders: tuple[Path, ...]
    versions: dict[str, frozenset[str]]
    defines: frozenset[str]


def read_shared_object(path: Path) -> SharedObject:
    """Read the dynamic section and the versions of ``path``; raises NotReadable, or OSError."""
    with _opened(path) as elf:
        needed, folders = list[str](), list[Path]()
        for tag, value in _DYNAMIC.iter_unpack(elf.content(_TYPE_DYNAMIC)):
            if tag == _TAG_NEEDED:
                needed.append(elf.text(_TYPE_DYNAMIC, value))
            elif tag in (_TAG_RPATH, _TAG_RUNPATH):
                entries = elf.text(_TYPE_DYNAMIC, value).split(":")
                folders += [Path(_expanded(entry, path)) for entry in entries if entry]
        versions = dict(_wanted_versions(elf))
        return SharedObject(
            path, tuple(needed), tuple(folders), versions, frozenset(_given_versions(elf))
        )


def defined_symbols(path: Path) -> frozenset[str]:
    """Return the dynamic symbols that the library ``path`` gives to others."""
    with _opened(path) as elf:
        places = [
            offset
            for offset, _, _, section, _, _ in _SYMBOL.iter_unpack(elf.content(_TYPE_SYMBOLS))
            if section != _UNDEFINED_SECTION
        ]
        return frozenset(_names(elf, places))


def undefined_symbols(path: Path) -> list[str]:
    """Return the dynamic symbols that ``path`` cannot do without and does not define."""
    with _opened(path) as elf:
        places = [
            offset
            for offset, info, _, section, _, _ in _SYMBOL.iter_unpack(elf.content(_TYPE_SYMBOLS))
            if section == _UNDEFINED_SECTION and info >> 4 != _WEAK
        ]
        return [name for name in _names(elf, places) if name]


def _names(elf: _Elf, places: Iterable[int]) -> list[str]:
    """Return the symbols' names that start at ``places`` of their table."""
    names = elf.strings(_TYPE_SYMBOLS).decode("latin-1")
    return [names[start : names.find("\0", start)] for start in places]


def _wanted_versions(elf: _Elf) -> Iterator[tuple[str, frozenset[str]]]:
    if _TYPE_NEED not in elf.sections:
        return
    table, place = elf.content(_TYPE_NEED), 0
    while True:
        count, file, name_place, next_ = _NEED.unpack_from(table, place)
        names, at = set(), place + name_place
        for _ in range(count):
            name, step = _NEED_NAME.unpack_from(table, at)
            names.add(elf.text(_TYPE_NEED, name))
            at += step
        yield elf.text(_TYPE_NEED, file), frozenset(names)
        if not next_:
            return
        place += next_


def _given_versions(elf: _Elf) -> Iterator[str]:
    if _TYPE_GIVEN not in elf.sections:
        return
    table, place = elf.content(_TYPE_GIVEN), 0
    while True:
        name_place, next_ = _GIVEN.unpack_from(table, place)
        yield elf.text(_TYPE_GIVEN, *_GIVEN_NAME.unpack_from(table, place + name_place))
        if not next_:
            return
        place += next_


class _Elf:
    """The sections of a file, by type; ``struct.error`` and LookupError tell of damage."""

    def __init__(self, file: mmap.mmap) -> None:
        if file[: len(_IDENT)] != _IDENT:
            raise NotReadable("it is no 64-bit little-endian ELF file")
        start, size, count = _HEADER.unpack_from(file)
        self._file = file
        self._all = [_SECTION.unpack_from(file, start + size * number) for number in range(count)]
        self.sections = {section[0]: section for section in reversed(self._all)}

    def content(self, type_: int) -> bytes:
        """Return the bytes of the first section of ``type_``; raises LookupError without one."""
        return self._bytes(self.sections[type_])

    def strings(self, type_: int) -> bytes:
        """Return the table of the names in the section of ``type_``."""
        return self._bytes(self._all[self.sections[type_][3]])

    def text(self, type_: int, offset: int) -> str:
        """Return the name at ``offset`` of the table of the section of ``type_``."""
        _, start, size, _ = self._all[self.sections[type_][3]]
        end = self._file.find(b"\0", start + offset, start + size)
        if end < 0:
            raise NotReadable("a name goes beyond its table")
        return self._file[start + offset : end].decode("utf-8", "replace")

    def _bytes(self, section: tuple[int, int, int, int]) -> bytes:
        _, start, size, _ = section
        if start + size > len(self._file):
            raise NotReadable("a section goes beyond the end of the file")
        return self._file[start : start + size]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Elf]:
    """Give the ELF file ``path``; raises NotReadable for what its damaged tables lead to."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield _Elf(content)
        except (ValueError, LookupError, OverflowError, struct.error) as error:
            raise NotReadable(f"{path}: {error}") from error


def _expanded(entry: str, path: Path) -> str:
    origin = str(path.parent)
    return os.path.normpath(entry.replace("$ORIGIN", origin).replace("${ORIGIN}", origin))
