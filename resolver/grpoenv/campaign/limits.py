"""Run a command within limits of time, memory and disk, and tell what it took.

Its whole family of processes is watched, whatever sessions they open, and killed in the end. What
it took is looked at a few times a second, so a limit can be passed by what is taken in between.
Time in which the machine or this process was stopped does not count.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpoenv.campaign import _limited

__all__ = ["LimitedRun", "Limits", "run_limited"]

_LOOK_EVERY_S = 0.25
_LONGEST_LOOK_S = 2.0
"""More than this between two looks means that this process was stopped."""
_MIB = 2**20
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Limits:
    """What one step of a cell may take; ``disk_mib`` is of files that it makes."""

    time_s: float = 900.0
    memory_mib: int = 8192
    disk_mib: int = 4096


@dataclass(frozen=True)
class LimitedRun:
    """How a command ended: its ``status``, and in ``stopped`` which limit it passed, or ""."""

    status: int
    stopped: str
    seconds: float
    memory_mib: int


def run_limited(
    command: Sequence[str | Path],
    *,
    limits: Limits,
    folder: Path,
    log: Path,
    variables: Mapping[str, str],
) -> LimitedRun:
    """Run ``command`` in ``folder``, where it may write; its output is added to the file ``log``."""
    launcher = [sys.executable, "-I", _limited.__file__, str(limits.disk_mib * _MIB)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*launcher, *map(str, command)],
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    family = _Family(process.pid)
    try:
        return _watch(process, family, limits, folder)
    finally:
        family.kill()
        process.wait()


def _watch(
    process: subprocess.Popen[bytes], family: _Family, limits: Limits, folder: Path
) -> LimitedRun:
    seconds, peak, last = 0.0, 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_EVERY_S)
        now = time.monotonic()
        seconds, last = seconds + min(now - last, _LONGEST_LOOK_S), now
        peak = max(peak, family.memory_mib())
        if process.returncode is not None:
            return LimitedRun(process.returncode, "", seconds, peak)
        if passed := _passed(seconds, peak, folder, limits):
            family.kill()
            return LimitedRun(process.wait(), passed, seconds, peak)


def _passed(seconds: float, memory_mib: int, folder: Path, limits: Limits) -> str:
    if seconds > limits.time_s:
        return f"it had not ended after {limits.time_s:g} s"
    if memory_mib > limits.memory_mib:
        return f"it took more than {limits.memory_mib} MiB of memory"
    if _size_mib(folder) > limits.disk_mib:
        return f"it wrote more than {limits.disk_mib} MiB"
    return ""


def _size_mib(folder: Path) -> int:
    size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(where, name)).st_blocks * _BLOCK_BYTES
    return size // _MIB


class _Family:
    """A process and all that descend from it; one that was seen once is known from then on."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._known = {root: _started(root)}

    def memory_mib(self) -> int:
        """Return the memory of all of them that is backed by no file."""
        self._look()
        return sum(map(_memory_kib, self._living())) // 1024

    def kill(self) -> None:
        """Kill all of them, and look again until there is none."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._root, signal.SIGKILL)
        self._look()
        while living := self._living():
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if living == {self._root}:
                return  # it waits to be collected
            time.sleep(_LOOK_EVERY_S / 10)
            self._look()

    def _living(self) -> set[int]:
        """Return those that still run: the number of a dead one may be a stranger's by now."""
        return {pid for pid, started in self._known.items() if _is(pid, started)}

    def _look(self) -> None:
        parents, ours = _parents(), self._living()
        grew = True
        while grew:
            found = {pid for pid, parent in parents.items() if parent in ours}
            new = found - ours
            ours |= new
            self._known.update({pid: _started(pid) for pid in new})
            grew = bool(new)


def _parents() -> dict[int, int]:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            parents[int(name)] = int(fields[1])
    return parents


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, none where the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _started(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _is(pid: int, started: str) -> bool:
    """Tell whether ``pid`` is still that process, and no dead one that waits to be collected."""
    fields = _stat(pid)
    return bool(fields) and fields[19] == started and fields[0] != "Z"


def _memory_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssShmem")))
    return sum(int(value.split()[0]) for value in fields.values())
