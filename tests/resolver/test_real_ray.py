"""A campaign on a real Ray cluster of several nodes, one of which dies in the middle.

It takes about a minute and Ray (`pip install grpoenv[ray]`), so run with ``-m real``.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from depot import Depot
from grpoenv.campaign.campaign import cell_tasks, run_campaign
from grpoenv.campaign.cell import CellResult
from grpoenv.campaign.limits import Limits
from grpoenv.campaign.ray_engine import RayCluster
from grpoenv.matrix import Level

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
SLOW = """
import time
with open({began!r}, "a") as file:
    file.write("{name}\\n")
time.sleep(3)
class GRPOConfig: pass
class GRPOTrainer: pass
"""
CELLS = 6


@pytest.fixture
def cluster(depot: Depot):  # type: ignore[no-untyped-def]
    """A head that runs nothing and two nodes of one core each; uv sees the depot on all of them."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.first, cluster.second = (cluster.add_node(num_cpus=1) for _ in range(2))
    cluster.wait_for_nodes()
    yield cluster
    import ray

    ray.shutdown()
    cluster.shutdown()


def add_stacks(depot: Depot) -> list[str]:
    names = [f"s{number}" for number in range(CELLS)]
    for number, name in enumerate(names):
        code = SLOW.format(began=str(depot.root / "began"), name=name)
        depot.stack(name, [depot.wheel("trl", f"{number}", files={"trl/__init__.py": code})])
    return names


def test_a_campaign_outlives_a_node_that_dies_in_the_middle(
    depot: Depot, tmp_path: Path, cluster
) -> None:  # type: ignore[no-untyped-def]
    names = add_stacks(depot)
    limits = Limits(time_s=120, memory_mib=1000, disk_mib=100)
    tasks = cell_tasks(depot.matrix(), depot.data, names, upto=Level.IMPORTED, limits=limits)
    told, killed, began = list[str](), list[float](), depot.root / "began"

    def report(result: CellResult) -> None:
        told.append(result.stack)
        if len(told) == 2:
            threading.Thread(target=kill).start()

    def kill() -> None:
        while len(began.read_text().split()) < 4:  # until both nodes are at work on other cells
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)
        killed.append(time.monotonic())

    folder = tmp_path / "campaign"
    results = run_campaign(folder, tasks, RayCluster(folder, cluster.address), report)
    assert killed
    assert len(began.read_text().split()) == CELLS + 1  # one died in the middle and began anew
    assert sorted(told) == names
    assert [result.stack for result in results] == names
    assert [result.level for result in results] == [Level.IMPORTED] * CELLS
    journal = (folder / "journal.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["stack"] for line in journal) == names
    assert len(list((folder / "logs").iterdir())) == CELLS
