"""Engines: what runs many cells at once. Here is the one of this machine, a pool of threads.

A thread only waits for the processes of its cell, so one for each core keeps all cores busy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grpoenv.campaign.cell import CellResult, CellTask
from grpoenv.campaign.cell_run import run_cell

__all__ = ["Engine", "LocalPool", "cell_place"]


class Engine(Protocol):
    """Runs cells; where one of its machines dies, it runs that machine's cells on another one."""

    def run(self, tasks: Sequence[CellTask]) -> Iterator[CellResult]:
        """Yield the result of each task as it is known, in any order."""


@dataclass(frozen=True)
class LocalPool:
    """Runs ``workers`` cells at a time below ``folder``, on this machine."""

    folder: Path
    workers: int = 1

    def run(self, tasks: Sequence[CellTask]) -> Iterator[CellResult]:
        """Yield the result of each task as it is known."""
        with ThreadPoolExecutor(self.workers) as pool:
            running = [
                pool.submit(run_cell, task, *cell_place(self.folder, task)) for task in tasks
            ]
            try:
                for done in as_completed(running):
                    yield done.result()
            finally:
                pool.shutdown(cancel_futures=True)


def cell_place(folder: Path, task: CellTask) -> tuple[Path, Path]:
    """Return the folder of the cell of ``task`` and its log, below the campaign's ``folder``."""
    name = f"{task.stack}-{task.python}-{task.platform}-{task.sha256[:12]}"
    return folder / "cells" / name, folder / "logs" / f"{name}.log"
