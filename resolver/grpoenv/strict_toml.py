"""Read TOML strictly: every key has to be known, every mistake names file, line and field."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import tomli
from packaging.utils import InvalidName, NormalizedName, canonicalize_name

from grpoenv.errors import InputError
from grpoenv.reading import read_text

__all__ = [
    "Table",
    "date",
    "identifier",
    "integer",
    "list_of",
    "load_values",
    "matching",
    "one_of",
    "root_table",
    "text",
]

_T = TypeVar("_T")
_Path = tuple["str | int", ...]
_CONTROL = re.compile(r"[\0-\x1f]")


def load_values(path: Path, *, limit_bytes: int) -> dict[str, Any]:
    """Return the TOML document at ``path`` as plain values; raises InputError with file and line."""
    return _parse(read_text(path, limit_bytes=limit_bytes), path)


def root_table(path: Path, *, limit_bytes: int) -> Table:
    """Return the TOML document at ``path`` as a table; raises InputError with file and line."""
    source = read_text(path, limit_bytes=limit_bytes)
    return Table(_parse(source, path), (), path, source)


def _parse(source: str, path: Path) -> dict[str, Any]:
    """Parse ``source``: with tomli where it can, which is compiled."""
    with suppress(tomli.TOMLDecodeError, RecursionError):
        return tomli.loads(source)
    import tomlkit
    from tomlkit.exceptions import ParseError, TOMLKitError

    try:
        values: dict[str, Any] = tomlkit.parse(source).unwrap()
        return values
    except ParseError as error:  # tomlkit tells the line of an error as a number
        raise InputError(f"is no TOML: {error}", path=path, line=error.line) from error
    except (TOMLKitError, RecursionError) as error:
        raise InputError(f"is no TOML: {error}", path=path) from error


class Table:
    """A table whose keys are taken one by one; what is left in the end is unknown."""

    def __init__(self, data: Mapping[str, object], where: _Path, path: Path, source: str) -> None:
        self._data = dict(data)
        self._where = where
        self._path = path
        self._source = source

    def error(self, key: str, message: str) -> InputError:
        """Return the error for ``key`` of this table."""
        where: _Path = (*self._where, key) if key else self._where
        lines = _lines(self._source)
        line = next(
            (lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None
        )
        return InputError(message, path=self._path, line=line, field=_dotted(where))

    def take(self, key: str, parse: Callable[[object], _T]) -> _T:
        """Remove ``key`` and return its parsed value; it has to be there."""
        if key not in self._data:
            raise self.error(key, "is missing")
        value = self._data.pop(key)
        try:
            return parse(value)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def take_or(self, key: str, parse: Callable[[object], _T], default: _T) -> _T:
        """Like ``take``, but ``default`` where the key is absent."""
        return self.take(key, parse) if key in self._data else default

    def table(self, key: str) -> Table:
        """Remove ``key``, which has to be a table, and return it."""
        value = self.take(key, _mapping)
        return Table(value, (*self._where, key), self._path, self._source)

    def tables(self, key: str) -> list[Table]:
        """Remove ``key``, an array of tables, and return these; an absent one is empty."""
        none: tuple[Mapping[str, object], ...] = ()
        rows = self.take_or(key, list_of(_mapping), none)
        return [
            Table(row, (*self._where, key, number), self._path, self._source)
            for number, row in enumerate(rows)
        ]

    def mapping(self, key: str, parse: Callable[[object], _T]) -> dict[NormalizedName, _T]:
        """Remove ``key``, a table from package to value, and return it parsed."""
        table = self.table(key)
        if not table._data:
            raise self.error(key, "is empty")
        result = {}
        for name in list(table._data):
            try:
                canonical = canonicalize_name(name, validate=True)
            except InvalidName as error:
                raise table.error(name, "is no package name") from error
            if canonical in result:
                raise table.error(name, f"names {canonical} a second time")
            result[canonical] = table.take(name, parse)
        return result

    def done(self) -> None:
        """Raise for the first key that nobody took."""
        for key in self._data:
            raise self.error(key, "is not a known key")


# Parsers of single values: each returns the typed value or raises ValueError with what it wants.


def text(value: object) -> str:
    """Return ``value`` if it is a text that is not blank and holds no control character."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text, found {value!r}")
    if _CONTROL.search(value):
        raise ValueError(f"holds a control character: {value!r}")
    return value


def integer(value: object) -> int:
    """Return ``value`` if it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, found {value!r}")
    return value


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table, found {value!r}")
    return value


def date(value: object) -> datetime.date:
    """Return ``value`` if it is a day without a time."""
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise ValueError(f"expected a date such as 2026-11-23, found {value!r}")
    return datetime.date(value.year, value.month, value.day)


def one_of(allowed: tuple[str, ...] | list[str]) -> Callable[[object], str]:
    """Return a parser that takes the ``allowed`` texts."""

    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, found {value!r}")
        return str(value)

    return parse


def matching(pattern: str, wanted: str) -> Callable[[object], str]:
    """Return a parser of texts that ``pattern`` matches; ``wanted`` says so in words."""
    compiled = re.compile(pattern)

    def parse(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"expected {wanted}, found {value!r}")
        return value

    return parse


identifier = matching(r"[a-z0-9][a-z0-9.-]*", "a name of a-z, 0-9, '.' and '-'")


def list_of(parse: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    """Return a parser of lists whose items ``parse`` takes."""

    def parse_list(value: object) -> tuple[_T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, found {value!r}")
        return tuple(parse(item) for item in value)

    return parse_list


# Where things stand: tomlkit tells lines for syntax errors only.

_HEADER = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<name>[A-Za-z0-9_.\s\"-]+?)\s*\]")
_KEY = re.compile(r"\s*\"?(?P<key>[A-Za-z0-9_.-]+)\"?\s*=")


def _lines(text: str) -> dict[_Path, int]:
    """Map the path of every table and key to its line, numbering the tables of an array."""
    lines: dict[_Path, int] = {}
    counts: dict[_Path, int] = {}
    here: _Path = ()
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            here = _header_path(header, counts)
            lines.setdefault(here, number)
        elif key := _KEY.match(line):
            lines.setdefault((*here, key["key"]), number)
    return lines


def _header_path(header: re.Match[str], counts: dict[_Path, int]) -> _Path:
    parts = [part.strip().strip('"') for part in header["name"].split(".")]
    here: _Path = ()
    for position, part in enumerate(parts):
        here = (*here, part)
        last = position == len(parts) - 1
        if last and header["open"] == "[[":
            counts[here] = counts.get(here, -1) + 1
        if here in counts:
            here = (*here, counts[here])
    return here


def _dotted(where: _Path) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
