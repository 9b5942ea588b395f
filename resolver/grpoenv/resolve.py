"""Choose a tested stack for a machine: pure functions over a probe, a matrix and wishes.

A stack fits if it misses nothing (see ``_misses``). Of those that fit, the one with the strongest
evidence is chosen, then the newest, then the one that replaces the fewest installed packages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.errors import NoStackFits
from grpoenv.gpu import Answer
from grpoenv.lockfile import Lock, Pin
from grpoenv.matrix import RUNTIMES, Level, Matrix, Stack, Target
from grpoenv.probe import Probe

__all__ = [
    "Change",
    "Kept",
    "Plan",
    "Rejection",
    "TorchSource",
    "Wishes",
    "brings_own_cuda",
    "default_runtime",
    "matching_target",
    "resolve",
    "satisfies",
]

_TORCH = NormalizedName("torch")
_IMAGE_OWNS = (_TORCH, NormalizedName("triton"), NormalizedName("numpy"))
"""A hosted image's kernel has these in memory, or its other packages are compiled against them."""
_IMAGES = ("colab", "kaggle")
_NEAREST = 3


class TorchSource(str, Enum):
    """Where the torch of a plan comes from."""

    KEPT = "kept"
    INDEX = "index"
    CPU_FOLDER = "cpu build from a wheel folder"
    CPU_BACKEND = "cpu build from PyTorch's own index"


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; everything is optional.

    ``stack`` is a runtime or the id of a stack, ``host`` overrides the probe's, ``with_packages``
    have to be part of the stack, ``pins`` are exact versions, ``damaged`` are installed packages
    that have to be installed anew although their version is right, and ``cpu_backend`` says that
    PyTorch's own index of CPU builds can be reached.
    """

    stack: str = ""
    host: str = ""
    with_packages: tuple[NormalizedName, ...] = ()
    pins: Mapping[NormalizedName, Version] = field(default_factory=dict)
    damaged: frozenset[NormalizedName] = frozenset()
    cpu_backend: bool = False


@dataclass(frozen=True)
class Change:
    """One package that the plan installs; ``old`` is None where it was absent."""

    pin: Pin
    old: Version | None
    new: Version
    size_bytes: int


@dataclass(frozen=True)
class Kept:
    """One package of the stack that is installed already and is not touched."""

    name: NormalizedName
    version: Version
    reason: str


@dataclass(frozen=True)
class Rejection:
    """A stack that was not chosen, with every condition that it misses (none: outranked)."""

    stack: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What to install, what stays, and why this stack."""

    stack: Stack
    target: Target
    torch: TorchSource
    changes: tuple[Change, ...]
    kept: tuple[Kept, ...]
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()

    @property
    def download_bytes(self) -> int:
        """The size of all wheels to install; what uv has cached is not downloaded again."""
        return sum(change.size_bytes for change in self.changes)


@dataclass(frozen=True)
class _Candidate:
    stack: Stack
    target: Target
    lock: Lock
    changes: tuple[Change, ...]
    torch: TorchSource


def matching_target(stack: Stack, probe: Probe) -> Target | None:
    """Return the target of ``stack`` that serves the interpreter and platform of ``probe``."""
    for target in stack.targets:
        if target.python == probe.interpreter.minor and _platform_fits(target, probe):
            return target
    return None


def resolve(probe: Probe, matrix: Matrix, locks: Mapping[str, Lock], wishes: Wishes) -> Plan:
    """Return the plan for ``probe``.

    ``locks`` maps the path of each matching target's lock (as the matrix has it) to the lock.
    Raises NoStackFits with the nearest stacks and every condition that each of them misses.
    """
    candidates, rejected = list[_Candidate](), list[Rejection]()
    for stack in matrix.stacks:
        target = matching_target(stack, probe)
        lock = locks[target.lock] if target else None
        reasons = tuple(_misses(stack, target, lock, probe, matrix, wishes))
        if reasons or target is None or lock is None:
            rejected.append(Rejection(stack.id, reasons))
        else:
            candidates.append(_candidate(stack, target, lock, probe, wishes))
    if not candidates:
        raise NoStackFits(_nothing_fits(rejected, matrix, wishes), remedy=_nearest_remedy(wishes))
    best, *others = sorted(candidates, key=_rank)
    rejected = [_outranked(other, best) for other in others] + rejected
    return Plan(
        stack=best.stack,
        target=best.target,
        torch=best.torch,
        changes=best.changes,
        kept=tuple(_kept(best, probe)),
        rejected=tuple(rejected),
        notes=tuple(_notes(best, probe, wishes)),
    )


def satisfies(installed: Version | None, pin: Pin) -> bool:
    """Tell whether ``installed`` is the pinned version; a local part such as +cu124 is no other."""
    return installed is not None and installed.public == pin.version.public


def brings_own_cuda(torch: Version | None) -> bool:
    """Tell whether an installed torch is a build of PyTorch's own index (+cpu, +cu126 …).

    Such a build has no use for the CUDA packages that the index's torch needs.
    """
    return torch is not None and torch.local is not None


def default_runtime(probe: Probe, wishes: Wishes) -> str:
    """Return the runtime for a user who names none: unsloth where there is or may be a GPU."""
    for runtime in RUNTIMES:
        if runtime in wishes.pins:
            return runtime
    if _host(probe, wishes) in _IMAGES or probe.gpu.answer is not Answer.NO:
        return "unsloth"
    return "trl"


def _host(probe: Probe, wishes: Wishes) -> str:
    return wishes.host or probe.host.kind


def _platform_fits(target: Target, probe: Probe) -> bool:
    return target.platform_tag in probe.platform_tags


def _rank(candidate: _Candidate) -> tuple[int, _Descending, int]:
    """Order candidates, best first."""
    replaced = sum(change.old is not None for change in candidate.changes)
    return -candidate.target.level, _Descending(candidate.stack.main_version), replaced


@dataclass(frozen=True)
class _Descending:
    version: Version

    def __lt__(self, other: _Descending) -> bool:
        return self.version > other.version


def _misses(
    stack: Stack,
    target: Target | None,
    lock: Lock | None,
    probe: Probe,
    matrix: Matrix,
    wishes: Wishes,
) -> Iterator[str]:
    """Yield each condition that ``stack`` misses, in the order in which a user can mend them."""
    yield from _misses_wish(stack, probe, wishes)
    if target is None or lock is None:
        yield _why_no_target(stack, probe)
        return
    for failure in target.failures:
        elsewhere = failure.only_without_gpu and probe.gpu.answer is Answer.YES
        if failure.level >= Level.IMPORTED and not elsewhere:
            yield f"it could not be {failure.level} on {failure.date}: {failure.error}"
    for name in wishes.with_packages:
        if name not in lock.pins:
            yield f"{name} is no part of it"
    for name, version in wishes.pins.items():
        if name not in lock.pins:
            yield f"it has no {name}"
        elif lock.pins[name].version != version:
            yield f"it has {name} {lock.pins[name].version}, not {version}"
    yield from _misses_image(stack, lock, probe, wishes)
    yield from _misses_driver(lock, probe)
    versions = {name: pin.version for name, pin in lock.pins.items()}
    for break_ in matrix.breaks:
        if break_.applies(versions):
            yield f"known break {break_.id}: {break_.summary}"


def _misses_wish(stack: Stack, probe: Probe, wishes: Wishes) -> Iterator[str]:
    if wishes.stack and wishes.stack not in RUNTIMES:
        if stack.id != wishes.stack:
            yield f"it is not {wishes.stack}"
        return
    wanted = wishes.stack or default_runtime(probe, wishes)
    if stack.runtime != wanted:
        yield f"its runtime is {stack.runtime}, not {wanted}"


def _why_no_target(stack: Stack, probe: Probe) -> str:
    pythons = [target.python for target in stack.targets if _platform_fits(target, probe)]
    if pythons:
        have = probe.interpreter.minor
        return f"it is locked for Python {', '.join(pythons)}, and this one is {have}"
    platforms = sorted({target.platform for target in stack.targets})
    return (
        f"it is locked for {', '.join(platforms)}, and this is "
        f"{probe.system} {probe.machine} with {probe.libc or 'an unknown libc'}"
    )


def _misses_image(stack: Stack, lock: Lock, probe: Probe, wishes: Wishes) -> Iterator[str]:
    for name in stack.keeps:
        have = probe.packages.get(name)
        if not satisfies(have, lock.pins[name]):
            found = f"{have} is installed" if have else "it is not installed"
            yield f"it keeps {name} {lock.pins[name].version} of {stack.image}, and {found}"
        elif name in wishes.damaged:
            yield f"it keeps {name} {have} of {stack.image}, and files of that are missing"
    host = _host(probe, wishes)
    if host not in _IMAGES:
        return
    if stack.image and not stack.image.startswith(host):
        yield f"it was made for {stack.image}, and this is {host}"
    for name in _IMAGE_OWNS:
        have, pin = probe.packages.get(name), lock.pins.get(name)
        if name in stack.keeps or have is None or pin is None or name in wishes.pins:
            continue
        if not satisfies(have, pin):
            yield f"it would replace the image's {name} {have} with {pin.version}"


def _misses_driver(lock: Lock, probe: Probe) -> Iterator[str]:
    cuda, gpu = lock.cuda(), probe.gpu
    if cuda and gpu.answer is Answer.YES and gpu.cuda and cuda[0] > gpu.cuda[0]:
        yield (
            f"its torch is built for CUDA {cuda[0]}.{cuda[1]}, and driver {gpu.driver} "
            f"admits CUDA {gpu.cuda[0]}.{gpu.cuda[1]}"
        )


def _candidate(
    stack: Stack, target: Target, lock: Lock, probe: Probe, wishes: Wishes
) -> _Candidate:
    torch = _torch_source(lock, probe, wishes)
    changes = tuple(_changes(lock, probe, torch, wishes.damaged))
    return _Candidate(stack, target, lock, changes, torch)


def _torch_source(lock: Lock, probe: Probe, wishes: Wishes) -> TorchSource:
    pin, have = lock.pins.get(_TORCH), probe.packages.get(_TORCH)
    if pin is None:
        return TorchSource.INDEX
    no_cuda = have is not None and have.local == "cpu"
    unfit = no_cuda and probe.gpu.answer is Answer.YES
    if satisfies(have, pin) and not unfit and _TORCH not in wishes.damaged:
        return TorchSource.KEPT
    if pin.cpu and probe.gpu.answer is Answer.NO:
        start = f"torch-{pin.cpu.version}-"
        built = [wheel for wheel in probe.wheels if wheel.startswith(start)]
        accepted = {str(tag) for tag in probe.tags()} if built else set[str]()
        if any(_tags(wheel) & accepted for wheel in built):
            return TorchSource.CPU_FOLDER
        if wishes.cpu_backend:
            return TorchSource.CPU_BACKEND
    return TorchSource.INDEX


def _tags(wheel: str) -> set[str]:
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    return {f"{python}-{abi}-{platform}" for platform in platforms.split(".")}


def _changes(
    lock: Lock, probe: Probe, torch: TorchSource, damaged: frozenset[NormalizedName]
) -> Iterator[Change]:
    cpu = torch in (TorchSource.CPU_FOLDER, TorchSource.CPU_BACKEND)
    kept = probe.packages.get(_TORCH) if torch is TorchSource.KEPT else None
    for name, pin in lock.pins.items():
        old = probe.packages.get(name)
        if pin.cuda_only and old is None and (cpu or brings_own_cuda(kept)):
            continue
        if name == _TORCH and torch is not TorchSource.KEPT:
            build = pin.cpu if cpu else None
            new, size = (
                (build.version, build.size_bytes) if build else (pin.version, pin.size_bytes)
            )
            yield Change(pin, old, new, size)
        elif name in damaged or not satisfies(old, pin):
            yield Change(pin, old, pin.version, pin.size_bytes)


def _kept(best: _Candidate, probe: Probe) -> Iterator[Kept]:
    changed = {change.pin.name for change in best.changes}
    for name in best.lock.pins:
        if name in changed or name not in probe.packages:
            continue
        why = f"{best.stack.image} ships it" if name in best.stack.keeps else "already as locked"
        yield Kept(name, probe.packages[name], why)


def _notes(best: _Candidate, probe: Probe, wishes: Wishes) -> Iterator[str]:
    if best.stack.runtime == "unsloth" and probe.gpu.answer is Answer.NO:
        yield f"unsloth trains on a GPU, and here is none: {probe.gpu.reason}"
    if probe.gpu.answer is Answer.UNKNOWN:
        yield f"whether there is a GPU is not known: {probe.gpu.reason}"
    if wishes.host and wishes.host != probe.host.kind:
        yield f"planned for {wishes.host}, though this looks like {probe.host.kind}"


def _outranked(other: _Candidate, best: _Candidate) -> Rejection:
    if other.target.level < best.target.level:
        why = f"its evidence is {other.target.level}, that of {best.stack.id} {best.target.level}"
    elif other.stack.main_version < best.stack.main_version:
        why = f"it is older: {other.stack.runtime} {other.stack.main_version}"
    else:
        why = f"it replaces more installed packages than {best.stack.id}"
    return Rejection(other.stack.id, (why,))


def _nothing_fits(rejected: list[Rejection], matrix: Matrix, wishes: Wishes) -> str:
    lines = ["no tested stack fits"]
    for break_ in matrix.breaks:
        asked = break_.when.keys() & wishes.pins.keys()
        if asked and all(break_.when[name].contains(wishes.pins[name], True) for name in asked):
            lines.append(f"  {break_.summary} ({break_.symptom})")
    nearest = sorted(rejected, key=lambda rejection: len(rejection.reasons))
    for rejection in nearest[:_NEAREST]:
        lines.append(f"  {rejection.stack}: {'; '.join(rejection.reasons)}")
    if len(nearest) > _NEAREST:
        lines.append(f"  … and {len(nearest) - _NEAREST} more that miss as much or more")
    return "\n".join(lines)


def _nearest_remedy(wishes: Wishes) -> str:
    if wishes.pins or wishes.with_packages:
        return "drop a --pin or --with, or see what there is: grpoenv matrix show"
    return "see what there is: grpoenv matrix show"
