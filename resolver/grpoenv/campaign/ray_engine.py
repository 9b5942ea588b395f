"""The engine of a Ray cluster: cells go to its nodes, and a dead node's cells to another one.

Ray runs a cell anew where its node or worker died in the middle. That it may have come to an end
there unseen is no matter: only what reaches the campaign is counted, and each cell once. Every node
needs this grpoenv and its own connection to a package index.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpoenv.campaign.cell import CellResult, CellTask
from grpoenv.campaign.cell_run import run_cell
from grpoenv.campaign.engines import cell_place
from grpoenv.errors import InputError

__all__ = ["RayCluster"]


@dataclass(frozen=True)
class RayCluster:
    """Runs cells on the cluster at ``address``, each on ``cores`` of a node.

    Without an address it is the cluster that ``RAY_ADDRESS`` names, or a new one on this machine.
    The logs come back to the campaign's ``folder``.
    """

    folder: Path
    address: str | None = None
    cores: float = 1.0

    def run(self, tasks: Sequence[CellTask]) -> Iterator[CellResult]:
        """Yield the result of each task as it is known; raises InputError without Ray."""
        ray = _ray()
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        remote = ray.remote(num_cpus=self.cores, max_retries=-1, retry_exceptions=False)(_run_there)
        names = {remote.remote(task): task for task in tasks}
        waiting = list(names)
        while waiting:
            (done, *_), waiting = ray.wait(waiting, num_returns=1)
            result, log = ray.get(done)
            _, path = cell_place(self.folder, names.pop(done))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(log)
            yield result


def _run_there(task: CellTask) -> tuple[CellResult, bytes]:
    """Run ``task`` on the node that this is; return its result and its log."""
    with tempfile.TemporaryDirectory(prefix="grpoenv-", ignore_cleanup_errors=True) as folder:
        place, log = cell_place(Path(folder), task)
        result = run_cell(task, place, log)
        return result, log.read_bytes()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError("--engine ray needs Ray", remedy="pip install 'grpoenv[ray]'") from error
