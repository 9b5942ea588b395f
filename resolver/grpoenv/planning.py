"""Read what a plan needs from the disk and resolve it."""

from __future__ import annotations

from grpoenv._data import DataPaths
from grpoenv.errors import InputError
from grpoenv.lockfile import Lock, read_lock
from grpoenv.matrix import Matrix
from grpoenv.probe import Probe
from grpoenv.resolve import matching_target

__all__ = ["locks_for"]


def locks_for(probe: Probe, matrix: Matrix, data: DataPaths) -> dict[str, Lock]:
    """Read the lock of every stack's target that serves ``probe``, by its path in the matrix.

    Raises InputError if a lock cannot be used, or does not hold the versions of its stack.
    """
    locks = {}
    for stack in matrix.stacks:
        target = matching_target(stack, probe)
        if target is None:
            continue
        path = data.locks / target.lock
        lock = locks[target.lock] = read_lock(path)
        for name in (*stack.versions, *stack.keeps):
            if name not in lock.pins:
                raise InputError(f"lacks {name}, which stack {stack.id} names", path=path)
    return locks
