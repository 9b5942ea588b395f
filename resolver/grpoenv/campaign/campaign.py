"""A campaign: the cells of many stacks, run by an engine, their results kept in a journal."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from grpoenv._data import DataPaths
from grpoenv.campaign.cell import CellResult, CellTask
from grpoenv.campaign.engines import Engine
from grpoenv.campaign.journal import open_journal
from grpoenv.campaign.limits import Limits
from grpoenv.errors import InputError
from grpoenv.lockfile import LOCK_LIMIT_BYTES
from grpoenv.matrix import Level, Matrix, Stack, Target
from grpoenv.reading import read_text

__all__ = ["cell_tasks", "run_campaign"]


def cell_tasks(
    matrix: Matrix,
    data: DataPaths,
    ids: Sequence[str],
    *,
    upto: Level,
    limits: Limits,
    pythons: Sequence[str] = (),
) -> list[CellTask]:
    """Return the cells of the stacks ``ids``, those of one torch together: uv's cache holds it then.

    Without ``pythons`` it is every Python that a stack is locked for; only targets of Linux on a
    machine such as this can be run. Raises InputError for an unknown stack or a lock that cannot be
    read.
    """
    here = f"{platform.machine()}-manylinux"
    stacks = {stack.id: stack for stack in matrix.stacks}
    if unknown := [id_ for id_ in ids if id_ not in stacks]:
        raise InputError(f"has no stack {unknown[0]!r}", path=matrix.path)
    wanted = sorted((stacks[id_] for id_ in ids), key=_torch_of)
    return [
        _task(stack, target, data, upto, limits)
        for stack in wanted
        for target in stack.targets
        if target.platform.startswith(here) and (not pythons or target.python in pythons)
    ]


def _torch_of(stack: Stack) -> str:
    return str(next((v for name, v in stack.versions.items() if name == "torch"), ""))


def _task(stack: Stack, target: Target, data: DataPaths, upto: Level, limits: Limits) -> CellTask:
    return CellTask(
        stack=stack.id,
        runtime=stack.runtime,
        python=target.python,
        platform=target.platform,
        lock=read_text(data.locks / target.lock, limit_bytes=LOCK_LIMIT_BYTES),
        sha256=target.sha256,
        as_of=str(stack.as_of),
        upto=str(upto),
        versions={str(name): str(version) for name, version in stack.versions.items()},
        kept=stack.keeps,
        limits=limits,
    )


def run_campaign(
    folder: Path,
    tasks: Sequence[CellTask],
    engine: Engine,
    report: Callable[[CellResult], None],
) -> list[CellResult]:
    """Run the cells that the journal in ``folder`` has no result of; return those of all ``tasks``.

    Each new result is in the journal before ``report`` gets it, so that a campaign that is cut off
    goes on after the last one. Raises OperationError while another process has the folder.
    """
    with open_journal(folder) as journal:
        shutil.rmtree(folder / "cells", ignore_errors=True)  # what a killed campaign left
        for result in engine.run([task for task in tasks if not journal.has(task.key)]):
            if journal.add(result):
                report(result)
        return [journal.results[task.key] for task in tasks]
