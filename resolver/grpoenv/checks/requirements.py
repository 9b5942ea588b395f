"""Declared requirements (``Requires-Dist``) of the stack's packages."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECK"]


def _run(environment: Environment) -> Iterator[Finding]:
    interpreter = environment.probe.interpreter
    markers: dict[str, str] = {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": interpreter.minor,
        "python_full_version": interpreter.version,
        "extra": "",
    }
    for name, distribution in environment.installed.items():
        for text in distribution.requires():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue  # as pip and uv do with metadata from before the grammar was strict
            if requirement.marker and not requirement.marker.evaluate(markers):
                continue
            yield from _compare(environment, name, requirement)


def _compare(
    environment: Environment, name: NormalizedName, requirement: Requirement
) -> Iterator[Finding]:
    needed = canonicalize_name(requirement.name)
    found = environment.versions.get(needed)
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return
    wanted = f"{requirement.name}{requirement.specifier}"
    culprit = environment.label(needed) if found else f"{needed} (not installed)"
    yield Finding(
        _severity(environment, name, needed),
        culprit,
        f"{environment.label(name)} needs {wanted}, and {found or 'none'} is installed",
        f"Requires-Dist of {environment.label(name)}",
    )


def _severity(environment: Environment, name: NormalizedName, needed: NormalizedName) -> Severity:
    """A conflict is a problem where the stack is concerned and not an image as it was shipped."""
    if not environment.concerns(name):
        return Severity.NOTE
    if environment.stack and name in environment.stack.keeps and not environment.concerns(needed):
        return Severity.NOTE
    return Severity.PROBLEM


CHECK = Check("requirements", "every declared requirement of the stack's packages is met", _run)
