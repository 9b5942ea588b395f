"""Where a machine without a GPU gets its torch from when no wheel folder has it."""

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from depot import Depot, make_probe
from grpoenv import planning
from grpoenv.errors import OperationError
from grpoenv.lockfile import CpuBuild
from grpoenv.planning import make_plan
from grpoenv.resolve import TorchSource, Wishes
from grpoenv.uv import UvRun

HASH = "sha256:" + "d" * 64


@pytest.fixture
def cpu_depot(depot: Depot) -> Depot:
    torch = depot.wheel("torch", "2.13.0")
    build = CpuBuild(Version("2.13.0+cpu"), HASH, 7)
    torch = replace(torch, hashes=(*torch.hashes, HASH), cpu=build)
    depot.stack("one", [depot.wheel("trl", "1"), torch], python="3.11")
    return depot


def source(depot: Depot) -> TorchSource:
    return make_plan(make_probe(), depot.matrix(), depot.data, Wishes(stack="trl")).torch


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, f"torch==2.13.0+cpu --hash={HASH}", TorchSource.CPU_BACKEND),
        (0, "torch==2.13.0+cpu --hash=sha256:another", TorchSource.INDEX),
        (2, "", TorchSource.INDEX),
    ],
)
def test_the_cpu_index_counts_only_with_the_very_file_of_the_lock(
    cpu_depot: Depot,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    output: str,
    expected: TorchSource,
) -> None:
    asked: list[str] = []

    def answer(arguments: list[str], *, input_text: str, timeout_s: float) -> UvRun:
        asked.append(input_text)
        return UvRun(status, output, "")

    monkeypatch.setattr(planning, "run_uv", answer)
    assert source(cpu_depot) is expected
    assert asked == ["torch==2.13.0+cpu\n"]


def test_a_cpu_index_that_does_not_answer_is_none(
    cpu_depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*arguments: object, **options: object) -> UvRun:
        raise OperationError("uv had not ended after 5 s and was stopped")

    monkeypatch.setattr(planning, "run_uv", hang)
    assert source(cpu_depot) is TorchSource.INDEX


def test_the_real_uv_offline_finds_no_cpu_index(cpu_depot: Depot) -> None:
    assert source(cpu_depot) is TorchSource.INDEX


def test_a_folder_that_has_the_build_is_not_asked_about_elsewhere(
    cpu_depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "run_uv", None)
    wheel = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    probe = make_probe(wheels=(wheel,))
    plan = make_plan(probe, cpu_depot.matrix(), cpu_depot.data, Wishes(stack="trl"))
    assert plan.torch is TorchSource.CPU_FOLDER
    assert Path(plan.target.lock).name == "lock.txt"
