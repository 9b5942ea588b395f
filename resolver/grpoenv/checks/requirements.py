"""Declared requirements (``Requires-Dist``) of the stack's packages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECK"]

_EXTRA = re.compile(r";.*\bextra\s*==")


def _run(environment: Environment) -> Iterator[Finding]:
    interpreter = environment.probe.interpreter
    markers: dict[str, str] = {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": interpreter.minor,
        "python_full_version": interpreter.version,
        "extra": "",
    }
    for name, distribution in environment.installed.items():
        missing = []
        for requirement in _applying(distribution.requires(), markers):
            needed = canonicalize_name(requirement.name)
            found = environment.versions.get(needed)
            if found is None:
                missing.append(requirement)
            elif not requirement.specifier.contains(found, prereleases=True):
                yield _conflict(environment, name, requirement)
        if missing:
            yield _missing(environment, name, missing)


def _applying(texts: Iterable[str], markers: dict[str, str]) -> Iterator[Requirement]:
    for text in texts:
        if _EXTRA.search(text) and " or " not in text:
            continue  # asked for by nobody; most of a large package's requirements are such
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # as pip and uv do with metadata from before the grammar was strict
        if requirement.marker is None or requirement.marker.evaluate(markers):
            yield requirement


def _conflict(environment: Environment, name: NormalizedName, requirement: Requirement) -> Finding:
    needed, label = canonicalize_name(requirement.name), environment.label(name)
    return Finding(
        _severity(environment, name, [needed]),
        environment.label(needed),
        f"{label} needs {requirement.name}{requirement.specifier}",
        f"Requires-Dist of {label}",
    )


def _missing(environment: Environment, name: NormalizedName, missing: list[Requirement]) -> Finding:
    wanted = ", ".join(f"{requirement.name}{requirement.specifier}" for requirement in missing)
    return Finding(
        _severity(environment, name, [canonicalize_name(r.name) for r in missing]),
        environment.label(name),
        f"{len(missing)} of its requirements are not installed: {wanted}",
        f"Requires-Dist of {environment.label(name)}",
    )


def _severity(
    environment: Environment, name: NormalizedName, needed: Sequence[NormalizedName]
) -> Severity:
    """A conflict is a problem where the stack is concerned and not an image as it was shipped."""
    if not environment.concerns(name):
        return Severity.NOTE
    shipped = environment.stack is not None and name in environment.stack.keeps
    if shipped and not any(environment.concerns(other) for other in needed):
        return Severity.NOTE
    return Severity.PROBLEM


CHECK = Check("requirements", "every declared requirement of the stack's packages is met", _run)
