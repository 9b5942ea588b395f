"""The CUDA that torch was built for, against the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.gpu import Answer

__all__ = ["CHECK"]

_TORCH = NormalizedName("torch")
_CUDA = re.compile(
    r"^cuda(?:\s*:[^=]+)?\s*=\s*(?P<value>None|['\"](?P<version>\d+\.\d+))", re.MULTILINE
)


def _run(environment: Environment) -> Iterator[Finding]:
    if _TORCH not in environment.installed:
        return
    gpu, torch = environment.probe.gpu, environment.label(_TORCH)
    version_file = environment.installed[_TORCH].info.parent / "torch" / "version.py"
    if gpu.answer is Answer.NO:
        yield Finding(
            Severity.NOTE, torch, f"not held against a driver: {gpu.reason}", str(version_file)
        )
        return
    if gpu.answer is Answer.UNKNOWN or gpu.cuda is None:
        reason = gpu.reason if gpu.answer is Answer.UNKNOWN else "the driver names no CUDA version"
        yield Finding(Severity.UNDETERMINED, torch, f"no driver to compare: {reason}", "NVML")
        return
    yield from _compare(torch, version_file, gpu.cuda, gpu.driver)


def _compare(
    torch: str, version_file: Path, admits: tuple[int, int], driver: str
) -> Iterator[Finding]:
    try:
        match = _CUDA.search(version_file.read_text("utf-8", errors="replace"))
    except OSError as error:
        match, why = None, f"{version_file} cannot be read: {error.strerror}"
    else:
        why = f"{version_file} names no CUDA version"
    if match is None:
        yield Finding(Severity.UNDETERMINED, torch, why, str(version_file))
    elif match["version"] is None:
        yield Finding(
            Severity.PROBLEM,
            torch,
            f"is a build without CUDA, and there is a GPU (driver {driver})",
            str(version_file),
        )
    elif int(match["version"].split(".")[0]) > admits[0]:
        yield Finding(
            Severity.PROBLEM,
            torch,
            f"is built for CUDA {match['version']}, and driver {driver} admits CUDA "
            f"{admits[0]}.{admits[1]} at the most; a newer driver mends it too",
            str(version_file),
        )


CHECK = Check("driver", "the driver can run the CUDA that torch was built for", _run)
