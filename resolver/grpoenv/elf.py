"""Shared libraries, read without loading them: what each needs, and what it gives.

Loading a library of the stack costs seconds and runs its code; the same answers stand in its
dynamic section and its symbol table.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

__all__ = [
    "NotReadable",
    "SharedObject",
    "defined_symbols",
    "read_shared_object",
    "undefined_symbols",
]

_SYMBOL = {64: struct.Struct("<IBBHQQ"), 32: struct.Struct("<IIIBBH")}
_DAMAGE = (
    ELFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
    ConstructError,
)
"""What pyelftools raises on tables that contradict themselves: it trusts them."""
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
        sections = _sections(elf, "SHT_DYNAMIC", "SHT_GNU_verneed", "SHT_GNU_verdef")
        tags = list(_required(sections, "SHT_DYNAMIC").iter_tags())
        wanted, given = sections.get("SHT_GNU_verneed"), sections.get("SHT_GNU_verdef")
        versions = {
            need.name: frozenset(version.name for version in names)
            for need, names in (wanted.iter_versions() if wanted else ())
        }
        defines = frozenset(
            name.name for _, names in (given.iter_versions() if given else ()) for name in names
        )
        search = [
            entry
            for tag in tags
            for entry in getattr(tag, "rpath", getattr(tag, "runpath", "")).split(":")
            if entry
        ]
        return SharedObject(
            path,
            tuple(tag.needed for tag in tags if hasattr(tag, "needed")),
            tuple(Path(_expanded(entry, path)) for entry in search),
            versions,
            defines,
        )


def defined_symbols(path: Path) -> frozenset[str]:
    """Return the dynamic symbols that the library ``path`` gives to others."""
    return frozenset(name for name, section, _ in _symbols(path) if section != _UNDEFINED_SECTION)


def undefined_symbols(path: Path) -> list[str]:
    """Return the dynamic symbols that ``path`` cannot do without and does not define."""
    return [
        name
        for name, section, binding in _symbols(path)
        if section == _UNDEFINED_SECTION and binding != _WEAK and name
    ]


def _symbols(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, section index and binding of each dynamic symbol.

    The tables are unpacked here: a torch library has 75,000 symbols, and to make an object of each
    takes pyelftools ten times as long.
    """
    with _opened(path) as elf:
        table = _required(_sections(elf, "SHT_DYNSYM"), "SHT_DYNSYM")
        raw, names = table.data(), table.stringtable.data()
        bits = elf.elfclass
        for fields in _SYMBOL[bits].iter_unpack(raw):
            offset, info = fields[0], fields[1 if bits == 64 else 3]
            section = fields[3 if bits == 64 else 5]
            end = names.find(b"\0", offset)
            yield names[offset:end].decode("ascii", "replace"), section, info >> 4


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give the ELF file ``path``; raises NotReadable for what its damaged tables lead to."""
    with path.open("rb") as file:
        try:
            elf = ELFFile(file)
            if not elf.little_endian:
                raise NotReadable("it is big-endian")
            yield elf
        except _DAMAGE as error:
            raise NotReadable(f"{path}: {error or type(error).__name__}") from error


def _sections(elf: Any, *types: str) -> dict[str, Any]:
    """Return the section of each of ``types`` that there is.

    Looking them up by name would make an object of every section, which takes three times as long.
    """
    found: dict[str, Any] = {}
    for number in range(elf.num_sections()):
        with contextlib.suppress(ELFError):  # of another type
            section = elf.get_section(number, types)
            found.setdefault(section["sh_type"], section)
    return found


def _required(sections: dict[str, Any], type_: str) -> Any:
    if type_ not in sections:
        raise NotReadable(f"it has no section of type {type_}")
    return sections[type_]


def _expanded(entry: str, path: Path) -> str:
    origin = str(path.parent)
    return os.path.normpath(entry.replace("$ORIGIN", origin).replace("${ORIGIN}", origin))
