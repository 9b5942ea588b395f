"""What NVIDIA GPU there is: yes, no or unknown, within a bounded time.

NVML is asked in a child process, because a broken driver can hang the library call for ever.
"""

from __future__ import annotations

import contextlib
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

__all__ = ["Answer", "Gpu", "GpuDevice", "find_gpu"]

_TIMEOUT_S = 2.7
_GRACE_S = 0.3
_DRIVER_SIGNS = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")
"""Without one of these no process on Linux can reach an NVIDIA GPU (dxg is that of WSL)."""


class Answer(str, Enum):
    """An answer that admits not knowing."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class GpuDevice:
    """One GPU; ``capability`` is (major, minor), None where the driver does not tell."""

    name: str
    capability: tuple[int, int] | None
    memory_mib: int


@dataclass(frozen=True)
class Gpu:
    """The NVIDIA GPUs of a machine.

    ``driver`` is the driver's version and ``cuda`` the newest CUDA (major, minor) that it admits;
    ``reason`` says where the answer comes from, or why there is none.
    """

    answer: Answer
    reason: str
    driver: str = ""
    cuda: tuple[int, int] | None = None
    devices: tuple[GpuDevice, ...] = ()


def find_gpu(*, timeout_s: float = _TIMEOUT_S, signs: tuple[str, ...] = _DRIVER_SIGNS) -> Gpu:
    """Ask NVML what GPUs there are; never takes much longer than ``timeout_s``, never raises."""
    if platform.system() != "Linux":
        return Gpu(Answer.UNKNOWN, f"not looked for on {platform.system()}")
    if not any(Path(sign).exists() for sign in signs):
        return Gpu(Answer.NO, "no NVIDIA driver is loaded")
    return _ask_nvml([sys.executable, "-I", str(Path(__file__).with_name("_nvml.py"))], timeout_s)


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Kill ``process`` and wait for it but briefly: one that is stuck in the driver does not end."""
    process.kill()
    if process.stdout:
        process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)


def _ask_nvml(command: list[str], timeout_s: float) -> Gpu:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        found = json.loads(output)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return Gpu(Answer.UNKNOWN, f"the NVIDIA driver did not answer within {timeout_s:g} s")
    except ValueError:
        return Gpu(Answer.UNKNOWN, f"asking NVML failed with exit status {process.returncode}")
    if "error" in found:
        return Gpu(Answer.UNKNOWN, f"NVML: {found['error']}")
    devices = tuple(
        GpuDevice(row["name"], tuple(row["capability"]), row["memory_mib"])
        for row in found["devices"]
    )
    answer = Answer.YES if devices else Answer.NO
    cuda = (found["cuda"] // 1000, found["cuda"] % 1000 // 10)
    return Gpu(answer, f"NVML lists {len(devices)}", found["driver"], cuda, devices)
