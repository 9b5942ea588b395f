"""Would this work? The verdict of ``verify`` for an environment that does not exist yet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name

from grpoenv._data import DataPaths
from grpoenv.checks import (
    PLANNED_CHECKS,
    Check,
    Environment,
    Finding,
    Severity,
    Use,
    capability,
    driver,
    script,
)
from grpoenv.errors import InputError
from grpoenv.gpu import Answer
from grpoenv.matrix import Matrix
from grpoenv.planned import PlannedPackages, plan_packages, planned_environment
from grpoenv.probe import Probe
from grpoenv.published import NoSolution, Wanted
from grpoenv.verify import Verdict, judge
from grpoenv.wheels import RangeClient

__all__ = ["Checked", "check", "parse_wanted"]


@dataclass(frozen=True)
class Checked:
    """The verdict, and the set of packages that it is about: none where uv finds no set."""

    verdict: Verdict
    packages: PlannedPackages | None


def check(
    wanted: Wanted,
    probe: Probe,
    matrix: Matrix,
    data: DataPaths,
    *,
    program: str = "grpoenv",
    use: Use | None = None,
) -> Checked:
    """Return the verdict on ``wanted`` for the machine, interpreter and image of ``probe``.

    ``use`` is how the environment would be used. Nothing is installed. Raises InputError where uv
    does not understand what is wanted and UndeterminedError where the index cannot be asked.
    """
    packages = plan_packages(wanted, probe)
    if isinstance(packages, NoSolution):
        nothing = Environment(probe, {}, matrix, planned={})
        known = [_unsolved(wanted, packages)]
        return Checked(judge(nothing, data, program=program, checks=(), known=known), None)
    with closing(RangeClient(credentials=_index_address)) as client:
        environment, findings = planned_environment(
            packages,
            probe,
            matrix,
            client,
            complete=wanted.dependencies or bool(probe.packages),
            use=replace(use or Use(), asked=_named(wanted)),
        )
        checks, unasked = _applicable(environment)
        known = [*packages.findings, *findings, *unasked]
        verdict = judge(environment, data, program=program, checks=checks, known=known)
    return Checked(verdict, packages)


def parse_wanted(
    requirements: Sequence[str],
    files: Sequence[Path],
    *,
    image: bool,
    dependencies: bool,
    exclude_newer: str,
) -> Wanted:
    """Return what the command line asks about; raises InputError where that is no question.

    On top of an ``image`` nothing need be asked for: then it is about the image itself.
    """
    if not (requirements or files or image):
        raise InputError("there is nothing to check", remedy="grpoenv check unsloth")
    for text in requirements:
        try:
            Requirement(text)
        except InvalidRequirement as error:
            raise InputError(
                f"{text!r} is no requirement: {error}",
                remedy="write it as pip does, such as 'trl>=1.15'",
            ) from error
    for path in files:
        if not path.is_file():
            raise InputError("is no file", path=path)
    return Wanted(tuple(requirements), tuple(files), dependencies, exclude_newer)


def _named(wanted: Wanted) -> frozenset[NormalizedName]:
    """Return the packages that were named one by one; a file of them lists what others need."""
    names = (Requirement(text).name for text in wanted.requirements)
    return frozenset(map(canonicalize_name, names))


def _index_address() -> str | None:
    from grpoenv.update_network import effective_index

    address = effective_index(os.environ)
    return address.url if address else None


def _unsolved(wanted: Wanted, found: NoSolution) -> Finding:
    return Finding(
        Severity.PROBLEM,
        str(wanted),
        "no set of versions meets all requirements",
        found.reason,
        "resolution",
    )


def _applicable(environment: Environment) -> tuple[Sequence[Check], Sequence[Finding]]:
    """Leave out what nobody has asked for; where nobody has named a driver, say so."""
    left_out: list[Check] = []
    notes: list[Finding] = []
    if not environment.use.scripts:
        left_out.append(script.CHECK)  # it would say that there is none
    gpu = environment.probe.gpu
    if gpu.answer is Answer.UNKNOWN:
        left_out += [driver.CHECK, capability.CHECK]
        reason = f"not held against a driver: {gpu.reason}"
        notes.append(Finding(Severity.NOTE, "torch", reason, "", "driver"))
    return tuple(check for check in PLANNED_CHECKS if check not in left_out), notes
