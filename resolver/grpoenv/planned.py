"""An environment that does not exist yet, put together from the wheels that uv would install.

On top of an image (its package list) it is the image with the change: what uv leaves alone keeps
the image's version, and of the packages that grpoenv manages the sources are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.checks import Environment, Finding, Severity, Use
from grpoenv.checks.interface import MANAGED
from grpoenv.checks.linkage import LINKED, stack_consumers
from grpoenv.checks.native import NATIVE
from grpoenv.checks.requirements import marker_environment
from grpoenv.distributions import Distribution
from grpoenv.errors import UndeterminedError
from grpoenv.matrix import Matrix
from grpoenv.probe import Probe
from grpoenv.published import NoSolution, NoWheel, Published, Wanted, find_published
from grpoenv.wheels import (
    RangeClient,
    SpanStore,
    WheelError,
    WheelFile,
    WheelTree,
    fetch_sources,
    is_stand_in,
    open_wheels,
)

__all__ = ["PlannedDistribution", "PlannedPackages", "plan_packages", "planned_environment"]

_CHECK = "resolution"
_LOOKED_INTO = tuple(dict.fromkeys([*MANAGED, *sorted(LINKED), *NATIVE]))
"""The packages of an image whose sources are read: those that the checks look into."""
_CUDA_LIBRARY = re.compile(r"(nvidia|cuda)-")
_TORCH = NormalizedName("torch")


@dataclass(frozen=True)
class PlannedDistribution(Distribution):
    """A distribution that is not installed; ``info`` is its ``wheel``'s name, which is no path.

    ``wheel`` is None for a package of an image that is not looked into.
    """

    declared: tuple[str, ...] = ()
    wheel: WheelFile | None = None

    def recorded_files(self) -> None:
        """Return None: nothing of it is installed."""

    def fingerprint(self) -> bytes:
        """Return what changes with the wheel: all that the index says of it, its hash included."""
        path = self.wheel.path if self.wheel else None
        return f"{self.wheel} {path.stat().st_mtime_ns if path else ''}".encode()

    def requires(self) -> list[str]:
        """Return the texts of ``Requires-Dist``."""
        return list(self.declared)


@dataclass(frozen=True)
class PlannedPackages:
    """The set to look at: the wheels by name, the versions that an image keeps, what is unclear."""

    wheels: dict[NormalizedName, WheelFile]
    image: dict[NormalizedName, Version]
    findings: tuple[Finding, ...]

    @property
    def versions(self) -> dict[NormalizedName, Version]:
        """The version of each package, the image's own with its local part."""
        new = {name: wheel.version for name, wheel in self.wheels.items() if not self.keeps(name)}
        return dict(sorted({**self.image, **new}.items()))

    def keeps(self, name: NormalizedName) -> bool:
        """Tell whether the image's own ``name`` stays; a wheel only stands in for its sources."""
        have = self.image.get(name)
        wheel = self.wheels.get(name)
        return have is not None and (wheel is None or have.public == wheel.version.public)


def plan_packages(wanted: Wanted, probe: Probe) -> PlannedPackages | NoSolution:
    """Return what ``wanted`` would come to on top of the packages of ``probe``.

    Raises as ``find_published`` does.
    """
    image = probe.packages
    asked = wanted.requirements or wanted.files
    found = find_published(wanted, probe, image) if asked else Published({}, ())
    if isinstance(found, NoSolution):
        return found
    wheels = dict(found.wheels)
    torch = wheels.get(_TORCH)
    if torch and (have := image.get(_TORCH)) and have.local and have.public == str(torch.version):
        # The image's torch brought its CUDA libraries; those of the index's build stay away.
        wheels = {n: w for n, w in wheels.items() if n in image or not _CUDA_LIBRARY.match(n)}
    findings = [_no_wheel(row) for row in found.without_wheel]
    findings += [_sources_alone(w) for w in wheels.values() if is_stand_in(w.filename)]
    rest = [name for name in _LOOKED_INTO if name in image and name not in wheels]
    for name, result in _image_wheels(rest, probe, wanted).items():
        if isinstance(result, WheelFile):
            wheels[name] = result
        else:
            findings.append(result)
    return PlannedPackages(wheels, image, tuple(findings))


def planned_environment(
    packages: PlannedPackages,
    probe: Probe,
    matrix: Matrix,
    client: RangeClient,
    *,
    complete: bool,
    use: Use,
) -> tuple[Environment, tuple[Finding, ...]]:
    """Open the wheels; return the environment, and what could not be read of it.

    ``complete`` says that the set has all that it needs, so that what is not in it is missing.
    """
    store = SpanStore()
    trees, errors = open_wheels(packages.wheels.values(), client, store)
    versions = packages.versions
    known = None if complete else frozenset(versions)
    installed: dict[NormalizedName, Distribution] = {
        name: _distribution(name, version, trees.get(name), packages, probe, known)
        for name, version in versions.items()
    }
    findings = [_unreadable(packages.wheels[name], error) for name, error in errors.items()]
    environment = Environment(probe, installed, matrix, use=use, planned=trees, complete=complete)
    try:
        consumers = stack_consumers(environment)
        fetch_sources(tree for name, tree in trees.items() if name in LINKED | consumers)
    except WheelError as error:
        findings.append(
            Finding(Severity.UNDETERMINED, "wheels", error.message, "the index", _CHECK)
        )
    store.trim()
    return environment, tuple(findings)


def _image_wheels(
    names: Iterable[NormalizedName], probe: Probe, wanted: Wanted
) -> dict[NormalizedName, WheelFile | Finding]:
    """Find the published wheels of packages that an image has, at the image's versions."""
    listed = list(names)
    pins = tuple(f"{name}=={probe.packages[name].public}" for name in listed)
    if not pins:
        return {}
    try:
        found = find_published(
            Wanted(pins, dependencies=False, exclude_newer=wanted.exclude_newer), probe, {}
        )
        reason = "" if isinstance(found, Published) else found.reason
    except UndeterminedError as error:
        found, reason = NoSolution(error.message), error.message
    if isinstance(found, Published):
        return {n: found.wheels.get(n) or _image_only(n, probe, "no wheel") for n in listed}
    if len(listed) == 1:
        return {listed[0]: _image_only(listed[0], probe, reason)}
    each = [_image_wheels([name], probe, wanted) for name in listed]
    return {name: result for found in each for name, result in found.items()}


def _distribution(
    name: NormalizedName,
    version: Version,
    tree: WheelTree | None,
    packages: PlannedPackages,
    probe: Probe,
    known: frozenset[NormalizedName] | None,
) -> PlannedDistribution:
    if tree is None:
        return PlannedDistribution(name, version, Path(f"{name}-{version}.dist-info"))
    own_build = packages.keeps(name) and version.local is not None
    declared = tuple(_declared(tree.metadata(), probe, known, own_build=own_build))
    return PlannedDistribution(name, version, Path(tree.wheel.filename), declared, tree.wheel)


def _declared(
    metadata: str, probe: Probe, known: frozenset[NormalizedName] | None, *, own_build: bool
) -> Iterator[str]:
    """Yield the requirements that can apply on the target.

    Where only ``known`` packages are looked at, the others are nobody's concern; and an image's
    ``own_build`` does not need the CUDA libraries of the index's.
    """
    markers = {**marker_environment(probe), "extra": ""}
    for text in HeaderParser().parsestr(metadata).get_all("Requires-Dist", []):
        try:
            requirement = Requirement(str(text))
        except InvalidRequirement:
            continue  # as pip and uv do with metadata from before the grammar was strict
        name = canonicalize_name(requirement.name)
        if known is not None and name not in known:
            continue
        if own_build and _CUDA_LIBRARY.match(name):
            continue
        marker = requirement.marker
        if marker is None or "extra" in str(marker) or marker.evaluate(markers):
            yield str(text)


def _no_wheel(row: NoWheel) -> Finding:
    return Finding(
        Severity.UNDETERMINED,
        f"{row.name} {row.version}" if row.version else row.name,
        "has no wheel that fits, so it is not looked into",
        "the files that the index has of it",
        _CHECK,
    )


def _sources_alone(wheel: WheelFile) -> Finding:
    return Finding(
        Severity.NOTE,
        f"{wheel.name} {wheel.version}",
        "is published as sources alone: its modules are looked into, and not what a build adds",
        "the files that the index has of it",
        _CHECK,
    )


def _image_only(name: NormalizedName, probe: Probe, reason: str) -> Finding:
    return Finding(
        Severity.NOTE,
        f"{name} {probe.packages[name]}",
        "is the image's own, and its sources are not on the index",
        reason,
        _CHECK,
    )


def _unreadable(wheel: WheelFile, error: WheelError) -> Finding:
    return Finding(
        Severity.UNDETERMINED,
        f"{wheel.name} {wheel.version}",
        f"cannot be looked into: {error.message}",
        wheel.filename,
        _CHECK,
    )
