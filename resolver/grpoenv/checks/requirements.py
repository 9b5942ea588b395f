"""Declared requirements (``Requires-Dist``), followed along the whole chain.

Extras count where a requirement that applies asks for them (``cuda-toolkit[cublas]``), and a
package of the stack answers for all that it leads to.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.probe import Probe

__all__ = ["CHECK", "chains", "declared_requirements", "marker_environment"]

_NO_EXTRA = NormalizedName("")
_ONLY_WITH_EXTRA = re.compile(
    r";(?!.*\bor\b)(?:.*\band\s)?\s*\(?\s*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"][\s)]*$"
)
"""A marker that asks for an extra whatever else it asks for: it ends so, and gives no choice."""
_Chains = Mapping[NormalizedName, tuple[NormalizedName, ...]]


@lru_cache(maxsize=1)
def declared_requirements(
    environment: Environment,
) -> Mapping[NormalizedName, tuple[Requirement, ...]]:
    """Return the requirements of each installed package that apply in the environment.

    An extra of a package applies if a requirement that applies itself asks for it. Several checks
    of one environment ask, one after the other.
    """
    installed, markers = environment.installed, marker_environment(environment.probe)
    texts = {name: installed[name].requires() for name in installed}
    asked: dict[NormalizedName, frozenset[NormalizedName]] = dict.fromkeys(installed, frozenset())
    found = {name: _applying(texts[name], markers, frozenset()) for name in installed}
    queue = deque(installed)
    while queue:
        for requirement in found[queue.popleft()]:
            needed = canonicalize_name(requirement.name)
            extras = frozenset(map(canonicalize_name, requirement.extras))
            if needed in installed and not extras <= asked[needed]:
                asked[needed] |= extras
                found[needed] = _applying(texts[needed], markers, asked[needed])
                queue.append(needed)
    return found


def _applying(
    texts: Iterable[str], markers: Mapping[str, str], extras: frozenset[NormalizedName]
) -> tuple[Requirement, ...]:
    return tuple(
        requirement
        for requirement in _parsed(texts, extras)
        if requirement.marker is None
        or any(
            requirement.marker.evaluate({**markers, "extra": extra})
            for extra in (_NO_EXTRA, *extras)
        )
    )


def _parsed(texts: Iterable[str], extras: frozenset[NormalizedName]) -> Iterator[Requirement]:
    for text in texts:
        only = _ONLY_WITH_EXTRA.search(text)
        if only and canonicalize_name(only["extra"]) not in extras:
            continue  # most are of this kind, and parsing them takes longer than all else here
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue  # as pip and uv do with metadata from before the grammar was strict


def marker_environment(probe: Probe) -> dict[str, str]:
    """Return the values of the environment markers for the interpreter and machine of ``probe``."""
    windows = probe.system == "Windows"
    return {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": probe.interpreter.minor,
        "python_full_version": probe.interpreter.version,
        "platform_machine": probe.machine,
        "platform_system": probe.system,
        "sys_platform": "win32" if windows else probe.system.lower(),
        "os_name": "nt" if windows else "posix",
    }


def _run(environment: Environment) -> Iterator[Finding]:
    declared = declared_requirements(environment)
    led_to = chains(environment, declared)
    for name, needs in declared.items():
        missing = []
        for requirement in needs:
            needed = canonicalize_name(requirement.name)
            found = environment.versions.get(needed)
            if found is None:
                missing.append(requirement)
            elif not requirement.specifier.contains(found, prereleases=True):
                yield _conflict(environment, name, requirement, led_to)
        if missing:
            yield _missing(environment, name, missing, led_to)


def chains(
    environment: Environment, declared: Mapping[NormalizedName, tuple[Requirement, ...]]
) -> dict[NormalizedName, tuple[NormalizedName, ...]]:
    """Return the shortest way from a package of the stack to each package that it leads to."""
    found: dict[NormalizedName, tuple[NormalizedName, ...]] = {
        name: (name,) for name in declared if environment.concerns(name)
    }
    queue = deque(found)
    while queue:
        name = queue.popleft()
        for requirement in declared[name]:
            needed = canonicalize_name(requirement.name)
            if needed in declared and needed not in found:
                found[needed] = (*found[name], needed)
                queue.append(needed)
    return found


def _conflict(
    environment: Environment, name: NormalizedName, requirement: Requirement, chains: _Chains
) -> Finding:
    needed, label = canonicalize_name(requirement.name), environment.label(name)
    return Finding(
        _severity(environment, name, [needed], chains),
        environment.label(needed),
        f"{label} needs {requirement.name}{requirement.specifier}",
        f"Requires-Dist of {label}",
        chain=_labels(environment, [*chains.get(name, (name,)), needed]),
    )


def _missing(
    environment: Environment, name: NormalizedName, missing: list[Requirement], chains: _Chains
) -> Finding:
    wanted = ", ".join(f"{requirement.name}{requirement.specifier}" for requirement in missing)
    return Finding(
        _severity(environment, name, [canonicalize_name(r.name) for r in missing], chains),
        environment.label(name),
        f"{len(missing)} of its requirements are not installed: {wanted}",
        f"Requires-Dist of {environment.label(name)}",
        chain=_labels(environment, chains.get(name, (name,))),
    )


def _labels(environment: Environment, names: Iterable[NormalizedName]) -> tuple[str, ...]:
    return tuple(environment.label(name) for name in names)


def _severity(
    environment: Environment,
    name: NormalizedName,
    needed: Iterable[NormalizedName],
    chains: _Chains,
) -> Severity:
    """A conflict is a problem where the stack leads to it and not an image as it was shipped."""
    if name not in chains:
        return Severity.NOTE
    shipped = environment.stack is not None and name in environment.stack.keeps
    if shipped and not any(environment.concerns(other) for other in needed):
        return Severity.NOTE
    return Severity.PROBLEM


CHECK = Check(
    "requirements",
    "every declared requirement that the stack leads to is met",
    _run,
    evidence="Requires-Dist in the METADATA of what is installed",
    seconds=0.5,
)
