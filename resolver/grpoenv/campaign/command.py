"""What ``grpoenv matrix test`` does: run cells, and record what came of them or compare it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpoenv._data import DataPaths
from grpoenv.campaign.campaign import cell_tasks, run_campaign
from grpoenv.campaign.cell import CellResult
from grpoenv.campaign.engines import Engine
from grpoenv.campaign.evidence import differences, record
from grpoenv.campaign.limits import Limits
from grpoenv.matrix import Level
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_lock import lock_stacks

__all__ = ["Tested", "Wanted", "run_stacks"]

_ROUNDS = 4
"""A stack may lack several packages that nothing declares; each round finds one more."""


@dataclass(frozen=True)
class Wanted:
    """Which cells to run and how far; no ``stacks`` are all of them."""

    stacks: tuple[str, ...] = ()
    pythons: tuple[str, ...] = ()
    upto: Level = Level.GPU
    limits: Limits = field(default_factory=Limits)
    record: bool = False


@dataclass(frozen=True)
class Tested:
    """The last result of every cell, and where it disagrees with the matrix (none if recorded)."""

    results: tuple[CellResult, ...]
    differences: tuple[str, ...]


def run_stacks(
    data: DataPaths,
    wanted: Wanted,
    folder: Path,
    engine: Engine,
    report: Callable[[CellResult], None],
) -> Tested:
    """Run the cells that are ``wanted``, with the campaign's journal in ``folder``.

    With ``wanted.record`` the results go into the matrix; a stack that turned out to need a package
    that nothing declares is then locked anew with it, and run again.
    """
    results = dict[tuple[str, str, str], CellResult]()
    stacks: Sequence[str] = wanted.stacks
    for _ in range(_ROUNDS if wanted.record else 1):
        for result in _run(data, wanted, stacks, folder, engine, report):
            results[result.stack, result.python, result.platform] = result
        if not wanted.record:
            break
        record(data, list(results.values()))
        stacks = sorted({result.stack for result in results.values() if result.needs})
        if not stacks:
            break
        lock_stacks(data, stacks)
    found = (
        () if wanted.record else tuple(differences(load_matrix(data.matrix), [*results.values()]))
    )
    return Tested(tuple(results.values()), found)


def _run(
    data: DataPaths,
    wanted: Wanted,
    stacks: Sequence[str],
    folder: Path,
    engine: Engine,
    report: Callable[[CellResult], None],
) -> list[CellResult]:
    matrix = load_matrix(data.matrix)
    tasks = cell_tasks(
        matrix,
        data,
        stacks or [stack.id for stack in matrix.stacks],
        upto=wanted.upto,
        limits=wanted.limits,
        pythons=wanted.pythons,
    )
    return run_campaign(folder, tasks, engine, report)
