"""A notebook kernel that still runs on what was installed before.

Replacing a package does not replace it in memory. The mix often works for a while and then fails
far from the cause (``numpy.dtype size changed``, ``operator torchvision::nms does not exist``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.kernel import kernel_process, process_start, replaced_files

__all__ = ["CHECK", "findings_for"]

_REMEDY = "restart the runtime (Runtime > Restart session) before you import anything"


def _run(environment: Environment) -> Iterator[Finding]:
    kernel = kernel_process()
    if kernel is None:
        yield Finding(
            Severity.NOTE,
            "this process",
            "does not run in a notebook, so no kernel can hold old code",
            "the processes above this one",
        )
        return
    yield from findings_for(environment, kernel)
    if kernel == os.getpid():
        yield from _other_versions(environment)


def findings_for(
    environment: Environment, kernel: int, proc: Path = Path("/proc")
) -> Iterator[Finding]:
    """Yield what the memory of the process ``kernel`` holds of packages that have changed since."""
    replaced = replaced_files(kernel, proc=proc)
    if replaced is None:
        yield Finding(
            Severity.UNDETERMINED,
            "the notebook kernel",
            "its memory map cannot be read",
            f"{proc / str(kernel) / 'maps'}",
        )
        return
    folders = [f"{folder}{os.sep}" for folder in environment.probe.interpreter.site_folders]
    old: dict[str, list[str]] = {}
    for path in replaced:
        for folder in folders:
            if path.startswith(folder):
                top = path.removeprefix(folder).split(os.sep)[0].partition(".")[0]
                old.setdefault(top, []).append(path)
    for top, paths in old.items():
        yield _stale(environment, top, f"{len(paths)} libraries, {paths[0]} (deleted)", kernel)
    yield from _reinstalled(environment, kernel, proc, set(old))


def _reinstalled(
    environment: Environment, kernel: int, proc: Path, known: set[str]
) -> Iterator[Finding]:
    """Yield loaded packages that were installed again after the kernel had started."""
    started = process_start(kernel, proc=proc)
    for name in environment.probe.loaded or ():
        distribution = environment.installed.get(name)
        if started is None or distribution is None or name.replace("-", "_") in known:
            continue
        try:
            installed = distribution.info.stat().st_mtime
        except OSError:
            continue
        if installed > started:
            seconds = round(installed - started)
            evidence = f"{distribution.info} is {seconds} s younger than the kernel"
            yield _stale(environment, name, evidence, kernel)


def _other_versions(environment: Environment) -> Iterator[Finding]:
    """Yield packages of which this very process has imported another version than is installed."""
    for name, distribution in environment.installed.items():
        module = sys.modules.get(name.replace("-", "_"))
        loaded = str(getattr(module, "__version__", ""))
        wanted = str(distribution.version.public)
        if environment.concerns(name) and loaded and loaded.partition("+")[0] != wanted:
            yield _stale(environment, name, f"{name}.__version__ is {loaded}", os.getpid())


def _stale(environment: Environment, name: str, evidence: str, kernel: int) -> Finding:
    return Finding(
        Severity.PROBLEM,
        environment.label(NormalizedName(name.replace("_", "-").lower())),
        "was replaced after the notebook kernel had loaded it: the kernel still runs the old code",
        f"{evidence}; process {kernel}",
        remedy=_REMEDY,
    )


CHECK = Check(
    "process",
    "the notebook kernel runs on what is installed, not on what was",
    _run,
    evidence="the kernel's memory map and start time under /proc",
    seconds=0.2,
)
