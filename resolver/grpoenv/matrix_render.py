"""Write a matrix as TOML in its one canonical order, so that a diff shows only what changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from grpoenv.matrix_file import MATRIX_LIMIT_BYTES
from grpoenv.reading import read_text
from grpoenv.strict_toml import load_values

__all__ = ["read_rows", "rows_text", "write_rows"]

_ORDER = (
    *("schema", "id", "runtime", "class", "package", "reason", "level", "step", "error"),
    *("summary", "symptom", "symbol", "reference", "requires", "as_of", "image", "keeps"),
    *("python", "platform", "lock", "sha256", "lacks"),
    *("date", "grpoenv", "machine", "command", "note", "seconds", "memory_mib", "log"),
    *("stack", "break", "versions", "addition", "target", "when", "evidence", "failure"),
)
"""All keys of a matrix, those of values before those of tables; a mapping from package to version
or specifier keeps the order that it has."""
_RANKS = {key: rank for rank, key in enumerate(_ORDER)}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read_rows(path: Path) -> dict[str, Any]:
    """Return the matrix at ``path`` as plain values, to be changed; raises as ``load_matrix`` does."""
    return load_values(path, limit_bytes=MATRIX_LIMIT_BYTES)


def write_rows(path: Path, rows: Mapping[str, Any]) -> None:
    """Write ``rows`` to ``path``; of the comments there, those before the first key stay."""
    path.write_text(rows_text(path, rows), encoding="utf-8")


def rows_text(path: Path, rows: Mapping[str, Any]) -> str:
    """Return what ``write_rows`` writes."""
    head = []
    if path.is_file():
        for line in read_text(path, limit_bytes=MATRIX_LIMIT_BYTES).split("\n"):
            if line and not line.startswith("#"):
                break
            head.append(line)
    body = "\n".join(_table_lines(rows, ""))
    return "\n".join([*head, body.strip("\n")]) + "\n"


def _table_lines(table: Mapping[str, Any], name: str) -> Iterator[str]:
    keys = sorted(table, key=lambda key: _RANKS.get(key, 0))
    values = [key for key in keys if not _is_table(table[key])]
    for key in values:
        yield f"{_key(key)} = {tomlkit.item(table[key]).as_string()}"
    for key in keys:
        full = f"{name}.{_key(key)}".removeprefix(".")
        if isinstance(table[key], Mapping):
            yield from ("", f"[{full}]", *_table_lines(table[key], full))
        elif key not in values:
            for row in table[key]:
                yield from ("", f"[[{full}]]", *_table_lines(row, full))


def _is_table(value: object) -> bool:
    rows = value if isinstance(value, list) else [value]
    return bool(rows) and all(isinstance(row, Mapping) for row in rows)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else tomlkit.key(key).as_string()
