"""The GPUs against what torch, triton and vLLM have code for, and against bf16."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.gpu import Answer, GpuDevice
from grpoenv.torch_build import TorchBuild, arch_list, torch_build

__all__ = ["CHECK", "runs_on"]

_TORCH = NormalizedName("torch")
_UNSLOTH = NormalizedName("unsloth")
_ALLOW_CPU = "UNSLOTH_ALLOW_CPU"
_FLOOR_USERS = (_UNSLOTH, NormalizedName("vllm"))
_FLOOR = (7, 0)
"""Below it triton compiles nothing, and vLLM refuses to start (incident unsloth-1998)."""
_BF16 = (8, 0)
"""The first with bf16 arithmetic (CUDA C++ programming guide, table of arithmetic throughput)."""
_ARCHITECTURE = re.compile(r"(?P<kind>sm|compute)_(?P<digits>\d+)(?P<suffix>[af]?)")


def runs_on(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Tell whether code for ``architectures`` runs on a GPU of ``capability``.

    Machine code runs within its major version from its minor version on, PTX from its version on;
    with ``a`` it runs on that very capability alone (CUDA programming guide, application
    compatibility).
    """
    for text in architectures:
        match = _ARCHITECTURE.fullmatch(text)
        if match is None:
            continue
        built = (int(match["digits"][:-1]), int(match["digits"][-1]))
        if match["suffix"] == "a":
            fits = built == capability
        elif match["kind"] == "compute" and not match["suffix"]:
            fits = built <= capability
        else:
            fits = built[0] == capability[0] and built[1] <= capability[1]
        if fits:
            return True
    return False


def _run(environment: Environment) -> Iterator[Finding]:
    gpu = environment.probe.gpu
    if _TORCH not in environment.installed:
        return
    if gpu.answer is Answer.NO:
        yield _no_gpu(environment, gpu.reason)
    for device in gpu.devices:
        if device.capability is None:
            yield Finding(
                Severity.UNDETERMINED, device.name, "does not tell its compute capability", "NVML"
            )
        else:
            yield from _device(environment, device, device.capability)


def _no_gpu(environment: Environment, reason: str) -> Finding:
    if _UNSLOTH in environment.installed and not environment.use.variables.get(_ALLOW_CPU):
        return Finding(
            Severity.WARNING,
            environment.label(_UNSLOTH),
            f"trains on a GPU alone, and here is none: {reason}; import unsloth ends with an error",
            f"NVML; {_ALLOW_CPU} is not set (incident unsloth-5226)",
        )
    label = environment.label(_TORCH)
    return Finding(Severity.NOTE, label, f"not held against a GPU: {reason}", "NVML")


def _device(
    environment: Environment, device: GpuDevice, capability: tuple[int, int]
) -> Iterator[Finding]:
    name = f"{device.name}, compute capability {capability[0]}.{capability[1]}"
    yield from _architectures(environment, name, capability)
    users = [environment.label(user) for user in _FLOOR_USERS if user in environment.installed]
    if capability < _FLOOR and users:
        yield Finding(
            Severity.PROBLEM,
            name,
            f"is too old for {' and '.join(users)}: they need {_FLOOR[0]}.{_FLOOR[1]}",
            "incident unsloth-1998",
            remedy="train on a GPU of capability 7.0 or newer (T4, V100, RTX 20 and later)",
        )
    elif capability < _BF16:
        yield Finding(
            Severity.WARNING,
            name,
            "has no bf16 arithmetic: train with fp16=True, bf16=False (trl's default is bf16)",
            "bf16 begins with capability 8.0",
        )


def _architectures(
    environment: Environment, name: str, capability: tuple[int, int]
) -> Iterator[Finding]:
    build, torch = torch_build(environment), environment.label(_TORCH)
    if not isinstance(build, TorchBuild) or build.cuda is None:
        return  # ``driver`` says so
    if environment.planned is not None:
        return  # the library that says so has half a gigabyte, and is not fetched
    found = arch_list(environment.installed)
    if found is None:
        library = Path("torch", "lib", "libtorch_python.so")
        yield Finding(
            Severity.UNDETERMINED, torch, "does not tell which GPUs it has code for", str(library)
        )
    elif not runs_on(capability, found[0]):
        yield Finding(
            Severity.PROBLEM,
            torch,
            f"has no code for the {name}, only for {' '.join(found[0])}: every CUDA call ends with "
            "'no kernel image is available for execution on the device'",
            str(found[1]),
        )


CHECK = Check(
    "capability",
    "torch, triton and vLLM have code for the GPUs, and bf16 is there",
    _run,
    evidence="NVML and the architectures that libtorch_python names",
    seconds=0.2,
)
