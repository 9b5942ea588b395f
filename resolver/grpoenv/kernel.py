"""Compiled code that a live notebook kernel holds in memory.

A kernel keeps the extensions it has loaded although their files are replaced, and then mixes old
code with new. A command that a notebook runs (``!grpoenv install``) is a descendant of the kernel,
so the kernel's memory map can be read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.distributions import Distribution

__all__ = ["kernel_process", "loaded_distributions", "process_start", "replaced_files"]


def loaded_distributions(
    installed: Iterable[Distribution], *, proc: Path = Path("/proc")
) -> tuple[NormalizedName, ...] | None:
    """Return which of ``installed`` the kernel around this process has compiled code loaded from.

    None if no process above this one is a kernel, or its memory map cannot be read.
    """
    kernel = kernel_process(proc=proc)
    if kernel is None:
        return None
    try:
        maps = (proc / str(kernel) / "maps").read_text("utf-8", errors="replace")
    except OSError:
        return None
    mapped = {
        line.split(maxsplit=5)[5].removesuffix(" (deleted)").rstrip()
        for line in maps.splitlines()
        if ".so" in line
    }
    return tuple(
        distribution.name for distribution in installed if _records_any(distribution.info, mapped)
    )


def replaced_files(process: int, *, proc: Path = Path("/proc")) -> list[str] | None:
    """Return the libraries that ``process`` runs on although their files are gone or replaced.

    None if its memory map cannot be read.
    """
    try:
        maps = (proc / str(process) / "maps").read_text("utf-8", errors="replace")
    except OSError:
        return None
    lines = [line.split(maxsplit=5)[5] for line in maps.splitlines() if ".so" in line]
    return sorted({line.removesuffix(" (deleted)") for line in lines if line.endswith("(deleted)")})


def process_start(process: int, *, proc: Path = Path("/proc")) -> float | None:
    """Return when ``process`` started, in seconds since the epoch, None if that cannot be read."""
    try:
        fields = (proc / str(process) / "stat").read_text("utf-8", errors="replace")
        boot = re.search(r"^btime (\d+)$", (proc / "stat").read_text("utf-8"), re.MULTILINE)
        ticks = int(fields.rpartition(")")[2].split()[19])  # field 22 of proc(5)
        return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else None
    except (OSError, ValueError, IndexError):
        return None


def _records_any(info: Path, files: set[str]) -> bool:
    """Tell whether the RECORD of ``info`` names one of ``files``; its text alone is searched."""
    base = f"{info.parent}{os.sep}"
    here = [file.removeprefix(base) for file in files if file.startswith(base)]
    try:
        record = (info / "RECORD").read_text("utf-8", errors="replace") if here else ""
    except OSError:
        return False
    return any(f"{file}," in record for file in here)


def kernel_process(*, proc: Path = Path("/proc")) -> int | None:
    """Return the id of the nearest process at or above this one that runs ``ipykernel``."""
    if "ipykernel" in sys.modules:
        return os.getpid()
    process = os.getppid()
    while process > 1:
        try:
            command = (proc / str(process) / "cmdline").read_bytes().split(b"\0")
            status = (proc / str(process) / "status").read_text("utf-8", errors="replace")
        except OSError:
            return None
        if any(b"ipykernel" in argument for argument in command):
            return process
        parents = [line.split()[1] for line in status.splitlines() if line.startswith("PPid:")]
        process = int(parents[0]) if parents else 0
    return None
