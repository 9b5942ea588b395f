"""Compiled code that a live notebook kernel holds in memory.

A kernel keeps the extensions it has loaded although their files are replaced, and then mixes old
code with new. A command that a notebook runs (``!grpoenv install``) is a descendant of the kernel,
so the kernel's memory map can be read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.distributions import Distribution

__all__ = ["kernel_process", "loaded_distributions"]


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
