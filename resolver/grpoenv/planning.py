"""Make a plan: read what the resolver needs from disk, and ask where a CPU build of torch is."""

from __future__ import annotations

from dataclasses import replace

from packaging.utils import NormalizedName

from grpoenv._data import DataPaths
from grpoenv.checks.record import is_damaged
from grpoenv.distributions import distributions, leftovers
from grpoenv.errors import InputError, OperationError
from grpoenv.gpu import Answer
from grpoenv.lockfile import CpuBuild, Lock, read_lock
from grpoenv.matrix import Matrix
from grpoenv.probe import Probe
from grpoenv.resolve import Plan, TorchSource, Wishes, matching_target, resolve
from grpoenv.uv import run_uv

__all__ = ["locks_for", "make_plan", "plan_environment"]

_TORCH = NormalizedName("torch")
_CPU_INDEX_TIMEOUT_S = 5.0


def make_plan(probe: Probe, matrix: Matrix, data: DataPaths, wishes: Wishes) -> Plan:
    """Return the plan for ``probe``; raises as ``locks_for`` and ``resolve`` do.

    Where the plan would put a CUDA build of torch on a machine without a GPU, PyTorch's own index
    is asked, for a few seconds at most, whether it has the CPU build of the lock.
    """
    locks = locks_for(probe, matrix, data)
    plan = resolve(probe, matrix, locks, wishes)
    if plan.torch is TorchSource.INDEX and probe.gpu.answer is Answer.NO:
        torch = locks[plan.target.lock].pins.get(_TORCH)
        if torch and torch.cpu and _cpu_index_has(torch.cpu, plan):
            return resolve(probe, matrix, locks, replace(wishes, cpu_backend=True))
    return plan


def plan_environment(probe: Probe, matrix: Matrix, data: DataPaths, wishes: Wishes) -> Plan:
    """Like ``make_plan``, for an environment of this machine, whose files can be looked at.

    A package that the plan would keep, and of which files are missing, is installed anew.
    """
    plan = make_plan(probe, matrix, data, wishes)
    installed = distributions(probe.interpreter.site_folders)
    doubled = {stale.name for stale in leftovers(installed)}
    damaged = {
        kept.name for kept in plan.kept if kept.name in doubled or is_damaged(installed[kept.name])
    }
    if not damaged:
        return plan
    return make_plan(probe, matrix, data, replace(wishes, damaged=frozenset(damaged)))


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
            if name not in lock.pins and name not in target.lacks:
                raise InputError(f"lacks {name}, which stack {stack.id} names", path=path)
    return locks


def _cpu_index_has(build: CpuBuild, plan: Plan) -> bool:
    """Tell whether PyTorch's index of CPU builds can be reached and has this very file."""
    arguments = ["pip", "compile", "-", "--no-deps", "--generate-hashes", "--torch-backend", "cpu"]
    arguments += ["--python-version", plan.target.python, "--python-platform", plan.target.platform]
    try:
        run = run_uv(
            arguments, input_text=f"torch=={build.version}\n", timeout_s=_CPU_INDEX_TIMEOUT_S
        )
    except OperationError:
        return False
    return run.status == 0 and build.hash in run.output
