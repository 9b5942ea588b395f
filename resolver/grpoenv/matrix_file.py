"""Load ``compat-matrix.toml`` into typed values; ``grpoenv.matrix`` lists its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

from grpoenv.matrix import (
    RUNTIMES,
    SCHEMA,
    WINDOWS,
    Addition,
    Break,
    Evidence,
    Failure,
    Level,
    Matrix,
    Observation,
    Stack,
    Target,
)
from grpoenv.strict_toml import (
    Table,
    date,
    identifier,
    integer,
    list_of,
    matching,
    one_of,
    root_table,
    text,
)

__all__ = ["MATRIX_LIMIT_BYTES", "load_matrix"]

_Row = TypeVar("_Row", Stack, Break)
MATRIX_LIMIT_BYTES = 8 * 1024 * 1024


def load_matrix(path: Path) -> Matrix:
    """Read, parse and check the matrix at ``path``.

    Raises InputError with file, line and field. The locks are not read here: see
    ``grpoenv.matrix_lint``.
    """
    root = root_table(path, limit_bytes=MATRIX_LIMIT_BYTES)
    schema = root.take("schema", integer)
    if schema != SCHEMA:
        raise root.error("schema", f"is {schema}; this grpoenv reads schema {SCHEMA}")
    stacks = _rows(root.tables("stack"), _stack)
    breaks = _rows(root.tables("break"), _break)
    root.done()
    return Matrix(path, stacks, breaks)


def _rows(tables: Iterable[Table], parse: Callable[[Table], _Row]) -> tuple[_Row, ...]:
    rows: dict[str, _Row] = {}
    for table in tables:
        row = parse(table)
        if row.id in rows:
            raise table.error("id", f"{row.id!r} is there twice")
        rows[row.id] = row
    return tuple(rows.values())


def _stack(table: Table) -> Stack:
    stack = Stack(
        id=table.take("id", identifier),
        runtime=table.take("runtime", one_of(RUNTIMES)),
        summary=table.take("summary", text),
        requires=table.take("requires", list_of(_requirement)),
        as_of=table.take("as_of", date),
        image=table.take_or("image", identifier, ""),
        keeps=table.take_or("keeps", list_of(_package), ()),
        versions=table.mapping("versions", _version),
        additions=tuple(_addition(row) for row in table.tables("addition")),
        targets=tuple(_target(row) for row in table.tables("target")),
    )
    table.done()
    if stack.runtime not in stack.versions:
        raise table.error("versions", f"lacks {stack.runtime}, the runtime of the stack")
    if not stack.targets:
        raise table.error("target", "is missing: a stack without a lock was never resolved")
    if bool(stack.image) != bool(stack.keeps):
        raise table.error("image", "and keeps go together: an image stack says what it keeps")
    targets = [(target.python, target.platform) for target in stack.targets]
    for target in targets:
        if targets.count(target) > 1:
            raise table.error("target", f"{' '.join(target)} is there twice")
    return stack


def _addition(table: Table) -> Addition:
    addition = Addition(table.take("package", _package), table.take("reason", text))
    table.done()
    return addition


def _target(table: Table) -> Target:
    target = Target(
        python=table.take("python", _python),
        platform=table.take("platform", _platform),
        lock=table.take("lock", _relative_path),
        sha256=table.take("sha256", _sha256),
        lacks=table.take_or("lacks", list_of(_package), ()),
        evidence=tuple(_evidence(row) for row in table.tables("evidence")),
        failures=tuple(_failure(row) for row in table.tables("failure")),
    )
    table.done()
    if not target.evidence:
        raise table.error("evidence", "is missing: a claim without a recorded run is no evidence")
    return target


def _evidence(table: Table) -> Evidence:
    return Evidence(**_run(table))


def _failure(table: Table) -> Failure:
    step, error = table.take("step", text), table.take("error", text)
    return Failure(**_run(table), step=step, error=error)


def _run(table: Table) -> dict[str, Any]:
    """Return the fields that evidence and failures share."""
    level = Level[table.take("level", one_of([str(level) for level in Level])).upper()]
    run = {
        "level": level,
        "grpoenv": str(table.take("grpoenv", _version)),
        "seconds": table.take_or("seconds", integer, 0),
        "memory_mib": table.take_or("memory_mib", integer, 0),
        "log": table.take_or("log", _sha256, ""),
    }
    return {**run, **vars(_observation(table))}


def _observation(table: Table) -> Observation:
    observation = Observation(
        date=table.take("date", date),
        machine=table.take("machine", text),
        command=table.take("command", text),
        note=table.take_or("note", text, ""),
    )
    table.done()
    return observation


def _break(table: Table) -> Break:
    break_ = Break(
        id=table.take("id", identifier),
        kind=table.take("class", identifier),
        summary=table.take("summary", text),
        symptom=table.take("symptom", text),
        symbol=table.take_or("symbol", text, ""),
        reference=table.take_or("reference", text, ""),
        when=table.mapping("when", _specifier),
        evidence=tuple(_observation(row) for row in table.tables("evidence")),
    )
    table.done()
    if not break_.evidence:
        raise table.error("evidence", "is missing: a claim without a recorded run is no evidence")
    return break_


_python = matching(r"3\.\d{1,2}", "a Python version such as 3.11")
_platform = matching(
    rf"[a-z0-9_]+-manylinux_2_\d+|{WINDOWS}", "a platform such as x86_64-manylinux_2_28"
)
_sha256 = matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal")


def _version(value: object) -> Version:
    return _known_version(text(value))


@cache
def _known_version(text: str) -> Version:
    """Return the version that ``text`` states: the same few stand in hundreds of rows."""
    try:
        return Version(text)
    except InvalidVersion as error:
        raise ValueError(f"{text!r} is no version") from error


def _specifier(value: object) -> SpecifierSet:
    try:
        return SpecifierSet(text(value))
    except InvalidSpecifier as error:
        raise ValueError(f"{value!r} is no version specifier") from error


def _requirement(value: object) -> Requirement:
    try:
        requirement = Requirement(text(value))
    except InvalidRequirement as error:
        raise ValueError(f"{value!r} is no requirement") from error
    if requirement.url or requirement.marker:
        raise ValueError(f"{value!r}: neither an address nor a marker belongs here")
    return requirement


def _package(value: object) -> NormalizedName:
    try:
        return canonicalize_name(text(value), validate=True)
    except InvalidName as error:
        raise ValueError(f"{value!r} is no package name") from error


def _relative_path(value: object) -> str:
    path = PurePosixPath(text(value))
    if path.is_absolute() or ".." in path.parts or path.suffix != ".txt":
        raise ValueError(f"expected a path below the folder of locks, found {value!r}")
    return str(path)
