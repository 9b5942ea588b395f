"""What a schema cannot say of the matrix: that it agrees with its locks, and they with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from grpoenv.errors import InputError
from grpoenv.lockfile import LOCK_LIMIT_BYTES, Lock, parse_lock
from grpoenv.matrix import Level, Matrix, Stack, Target
from grpoenv.reading import read_text

__all__ = ["lint"]


def lint(matrix: Matrix, locks: Path) -> list[InputError]:
    """Return everything that is wrong between ``matrix`` and the locks below the folder ``locks``.

    A matrix that cannot be loaded at all raises in ``load_matrix`` already.
    """
    errors = list[InputError]()
    named = set[Path]()
    for stack in matrix.stacks:
        for target in stack.targets:
            named.add(locks / target.lock)
            errors += _lint_target(matrix, stack, target, locks / target.lock)
    for path in sorted(set(locks.rglob("*.txt")) - named):
        if path.parent != locks / "images":
            errors.append(InputError("belongs to no stack of the matrix", path=path))
    return errors


def _lint_target(matrix: Matrix, stack: Stack, target: Target, path: Path) -> Iterator[InputError]:
    where = f"stack {stack.id}, Python {target.python}"
    if not path.is_file():
        yield InputError(
            f"names lock {target.lock}, which is not there", path=matrix.path, field=where
        )
        return
    try:
        text = read_text(path, limit_bytes=LOCK_LIMIT_BYTES)
        if hashlib.sha256(text.encode()).hexdigest() != target.sha256:
            yield InputError(
                f"is not the file whose sha256 the matrix has; write it anew: grpoenv matrix lock "
                f"{stack.id}",
                path=path,
            )
        lock = parse_lock(text, path=path)
    except InputError as error:
        yield error
        return
    if not any(row.level is Level.RESOLVED for row in target.evidence):
        yield InputError("lacks its evidence of level resolved", path=matrix.path, field=where)
    for failure in target.failures:
        if failure.level in {row.level for row in target.evidence}:
            message = f"has evidence and a failure of level {failure.level}"
            yield InputError(message, path=matrix.path, field=where)
    for message in _disagreements(stack, target, lock):
        yield InputError(message, path=matrix.path, field=where)


def _disagreements(stack: Stack, target: Target, lock: Lock) -> Iterator[str]:
    for name, version in stack.versions.items():
        locked = lock.pins[name].version if name in lock.pins else None
        if name in target.lacks and locked is None:
            continue
        if locked != version:
            yield f"versions.{name} is {version}, and the lock has {locked}"
    for requirement in stack.requires:
        pin = lock.pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin.version, prereleases=True):
            yield f"requires {requirement}, and the lock has {pin.version if pin else None}"
    for name in (*stack.keeps, *(addition.package for addition in stack.additions)):
        if name not in lock.pins:
            yield f"names {name}, which is not in the lock"
