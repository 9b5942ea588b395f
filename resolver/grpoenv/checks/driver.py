"""The CUDA that torch was built for, against the driver."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.gpu import Answer
from grpoenv.torch_build import TorchBuild, UnknownBuild, torch_build

__all__ = ["CHECK"]

_TORCH = NormalizedName("torch")


def _run(environment: Environment) -> Iterator[Finding]:
    if _TORCH not in environment.installed:
        return
    gpu, torch = environment.probe.gpu, environment.label(_TORCH)
    build = torch_build(environment)
    if gpu.answer is Answer.NO:
        yield Finding(
            Severity.NOTE, torch, f"not held against a driver: {gpu.reason}", build.source
        )
    elif gpu.answer is Answer.YES and isinstance(build, TorchBuild) and build.cuda is None:
        yield from _without_cuda(torch, build, gpu.driver)
    elif gpu.answer is Answer.UNKNOWN or gpu.cuda is None:
        reason = gpu.reason if gpu.answer is Answer.UNKNOWN else "the driver names no CUDA version"
        yield Finding(Severity.UNDETERMINED, torch, f"no driver to compare: {reason}", "NVML")
    elif isinstance(build, UnknownBuild):
        yield Finding(Severity.UNDETERMINED, torch, build.reason, build.source)
    else:
        yield from _compare(torch, build, gpu.cuda, gpu.driver)


def _without_cuda(torch: str, build: TorchBuild, driver: str) -> Iterator[Finding]:
    if not build.other:
        yield Finding(
            Severity.PROBLEM,
            torch,
            "is a build without CUDA, and there is a GPU" + (f" (driver {driver})" * bool(driver)),
            build.source,
        )


def _compare(
    torch: str, build: TorchBuild, admits: tuple[int, int], driver: str
) -> Iterator[Finding]:
    if build.cuda is not None and build.cuda[0] > admits[0]:
        yield Finding(
            Severity.PROBLEM,
            torch,
            f"is built for CUDA {build.cuda[0]}.{build.cuda[1]}, and driver {driver} admits CUDA "
            f"{admits[0]}.{admits[1]} at the most; a newer driver mends it too",
            build.source,
        )


CHECK = Check(
    "driver",
    "the driver can run the CUDA that torch was built for",
    _run,
    evidence="NVML and torch/version.py",
    seconds=0.1,
)
