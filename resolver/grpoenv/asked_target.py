"""The machine that a question is about, where that is not this one: an image, a Python, a GPU."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from grpoenv.errors import InputError
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.gpu_models import KNOWN_MODELS, capability_of
from grpoenv.machine import probe_machine
from grpoenv.probe import Interpreter, Probe, manylinux_tags, probe_from_freeze

__all__ = ["UNASKED_GPU", "asked_probe", "parse_gpu"]

UNASKED_GPU = Gpu(Answer.UNKNOWN, "none was named: --gpu, --driver")
"""Of an image or another platform nobody knows the GPU unless the user names it."""

_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
_PLATFORM = re.compile(r"(x86_64|aarch64)-manylinux_2_(\d{1,2})")
_WINDOWS = "x86_64-windows"
_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
_CUDA_OF_DRIVER = {
    450: (11, 0),
    455: (11, 1),
    460: (11, 2),
    465: (11, 3),
    470: (11, 4),
    495: (11, 5),
    510: (11, 6),
    515: (11, 7),
    520: (11, 8),
    525: (12, 0),
    530: (12, 1),
    535: (12, 2),
    545: (12, 3),
    550: (12, 4),
    555: (12, 5),
    560: (12, 6),
    565: (12, 7),
    570: (12, 8),
    575: (12, 9),
    580: (13, 0),
    590: (13, 1),
}
"""The CUDA release that each driver branch came with, from NVIDIA's CUDA release notes."""


def asked_probe(
    *,
    python: Path | None = None,
    freeze: Path | None = None,
    host: str = "colab",
    python_version: str = "",
    platform: str = "",
    gpu: Gpu | None = None,
) -> Probe:
    """Return the probe of what a user asks about: an image's ``freeze``, or else this machine.

    ``python_version``, ``platform`` (as ``x86_64-manylinux_2_28``, or ``x86_64-windows``) and ``gpu`` go before what is
    found there. Raises InputError where one of them cannot be understood.
    """
    if freeze is not None:
        probe = probe_from_freeze(freeze, host=host, gpu=UNASKED_GPU)
    else:
        probe = replace(probe_machine(python), packages={})
    if python_version:
        probe = replace(probe, interpreter=_interpreter(probe.interpreter, python_version))
    if platform:
        probe = _on_platform(probe, platform)
    return replace(probe, gpu=gpu) if gpu is not None else probe


def parse_gpu(gpu: str, driver: str) -> Gpu | None:
    """Return what ``--gpu`` and ``--driver`` say, None where neither is given; raises InputError.

    ``gpu`` is a model (``T4``), a compute capability (``7.5``) or ``none``; ``driver`` a version.
    """
    if not gpu and not driver:
        return None
    if gpu.lower() == "none":
        return Gpu(Answer.NO, "--gpu none")
    devices = (GpuDevice(gpu, _capability(gpu), 0),) if gpu else ()
    return Gpu(Answer.YES, "named by the user", driver, _cuda(driver) if driver else None, devices)


def _capability(gpu: str) -> tuple[int, int]:
    if match := _CAPABILITY.fullmatch(gpu):
        return int(match[1]), int(match[2])
    known = capability_of(gpu)
    if known is None:
        raise InputError(
            f"--gpu {gpu!r} is not known here",
            remedy=f"give its compute capability, such as 8.6, or one of {', '.join(KNOWN_MODELS)}",
        )
    return known


def _cuda(driver: str) -> tuple[int, int]:
    major = driver.partition(".")[0]
    known = [branch for branch in _CUDA_OF_DRIVER if major.isdecimal() and branch <= int(major)]
    if not known:
        raise InputError(
            f"--driver {driver!r} is no driver version of {min(_CUDA_OF_DRIVER)} or newer",
            remedy="give what nvidia-smi prints, such as 580.82.07",
        )
    return _CUDA_OF_DRIVER[max(known)]


def _interpreter(interpreter: Interpreter, version: str) -> Interpreter:
    if not _PYTHON.fullmatch(version):
        raise InputError(f"--python-version {version!r} is not of the form 3.12 or 3.12.4")
    if version == interpreter.minor:
        return interpreter
    full = version if version.count(".") == 2 else f"{version}.0"
    return replace(interpreter, version=full, implementation="CPython")


def _on_platform(probe: Probe, platform: str) -> Probe:
    if platform == _WINDOWS:
        return replace(
            probe,
            system="Windows",
            machine="AMD64",
            libc="",
            platform_tags=("win_amd64",),
            gpu=UNASKED_GPU,
        )
    match = _PLATFORM.fullmatch(platform)
    if match is None:
        raise InputError(
            f"--platform {platform!r} is not of the form x86_64-manylinux_2_28, nor {_WINDOWS}",
            remedy="take the machine and the glibc of the target, such as aarch64-manylinux_2_35",
        )
    machine, libc = match[1], int(match[2])
    return replace(
        probe,
        system="Linux",
        machine=machine,
        libc=f"glibc 2.{libc}",
        platform_tags=manylinux_tags(machine, libc),
        gpu=UNASKED_GPU,
    )
