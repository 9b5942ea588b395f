"""Verify an environment: run the checks, and give each finding the command that mends it."""

from __future__ import annotations

import os
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv._data import DataPaths
from grpoenv.checks import CHECKS, Check, Environment, Finding, Severity, Use
from grpoenv.distributions import distributions
from grpoenv.errors import NoStackFits
from grpoenv.installed_stack import find_stack, read_installed_stack
from grpoenv.lockfile import read_lock
from grpoenv.machine import is_running_interpreter
from grpoenv.matrix import Matrix, Stack, Target
from grpoenv.planning import locks_for
from grpoenv.probe import Probe
from grpoenv.resolve import Wishes, resolve

__all__ = ["Verdict", "judge", "verify"]

_ORDER = list(Severity)
_IMAGES = ("colab", "kaggle")


@dataclass(frozen=True)
class Verdict:
    """What all checks found, the most serious first.

    ``seconds`` says which checks ran, and how long each took.
    """

    findings: tuple[Finding, ...]
    stack: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def checks(self) -> tuple[str, ...]:
        """The names of the checks that ran."""
        return tuple(self.seconds)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that make the environment unsound."""
        return tuple(f for f in self.findings if f.severity is Severity.PROBLEM)

    @property
    def undetermined(self) -> tuple[Finding, ...]:
        """The findings that say what could not be found out."""
        return tuple(f for f in self.findings if f.severity is Severity.UNDETERMINED)


def verify(
    probe: Probe,
    matrix: Matrix,
    data: DataPaths,
    *,
    program: str = "grpoenv",
    checks: Sequence[Check] = CHECKS,
    installed_as: tuple[Stack, Target] | None = None,
    use: Use | None = None,
) -> Verdict:
    """Check the environment that ``probe`` describes, from its files, and return the verdict.

    ``program`` is how the user calls grpoenv, for the remedies; ``installed_as`` is the stack that
    should be there, by default the one that grpoenv's record in the environment names. ``use`` says
    what the environment is for and how closely to look, by default not deeply, with the variables
    of this process.
    """
    use = use or Use(variables=os.environ)
    found_stack = installed_as or find_stack(matrix, read_installed_stack(probe.interpreter))
    stack = found_stack[0] if found_stack else None
    lock = read_lock(data.locks / found_stack[1].lock) if found_stack else None
    environment = Environment(
        probe=probe,
        installed=distributions(probe.interpreter.site_folders),
        matrix=matrix,
        stack=stack,
        lock=lock,
        use=use,
    )
    return judge(environment, data, program=program, checks=checks)


def judge(
    environment: Environment,
    data: DataPaths,
    *,
    program: str,
    checks: Sequence[Check],
    known: Sequence[Finding] = (),
) -> Verdict:
    """Run ``checks`` and return the verdict, with what is ``known`` without them.

    Each problem gets the command that mends it.
    """
    found, seconds = list(known), dict[str, float]()
    for check in checks:
        if environment.use.deep or not check.deep:
            start = time.monotonic()
            found += _findings(check, environment)
            seconds[check.name] = round(time.monotonic() - start, 3)
    found = list(_told_once(found))
    if left_out := [check.name for check in checks if check.name not in seconds]:
        found.append(_left_out(left_out))
    if any(finding.severity is Severity.PROBLEM and not finding.remedy for finding in found):
        remedy = _remedy(environment, data, program)
        found = [
            replace(finding, remedy=finding.remedy or remedy)
            if finding.severity is Severity.PROBLEM
            else finding
            for finding in found
        ]
    found.sort(key=lambda finding: _ORDER.index(finding.severity))
    stack = environment.stack.id if environment.stack else ""
    return Verdict(tuple(finding.shown() for finding in found), stack, seconds)


def _findings(check: Check, environment: Environment) -> Iterable[Finding]:
    """Run ``check``; what it stumbles over is a finding, too."""
    try:
        return [replace(finding, check=check.name) for finding in check.run(environment)]
    except (OSError, ValueError, RecursionError) as error:
        return [
            Finding(
                Severity.UNDETERMINED,
                f"check {check.name}",
                f"could not end: {type(error).__name__}: {error}",
                check.evidence,
                check.name,
            )
        ]


def _told_once(found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield ``found``, each known break as evidence of the problem that is the same, if one is."""
    breaks = defaultdict[str, list[str]](list)
    for finding in found:
        if finding.check == "breaks":
            breaks[finding.symbol].append(finding.evidence)
    linked = [f for f in found if f.check == "linkage" and f.severity is Severity.PROBLEM]
    told = {finding.symbol for finding in linked if finding.symbol}
    for finding in found:
        if finding.check == "breaks" and finding.symbol in told:
            continue
        if finding in linked and finding.symbol in breaks:
            evidence = "; ".join([finding.evidence, *breaks[finding.symbol]])
            yield replace(finding, evidence=evidence)
        else:
            yield finding


def _left_out(names: Sequence[str]) -> Finding:
    return Finding(
        Severity.NOTE,
        "grpoenv",
        f"did not run {', '.join(names)}: they take long, or run code of the environment",
        "grpoenv verify --deep runs them",
    )


def _remedy(environment: Environment, data: DataPaths, program: str) -> str:
    """Return the first ``grpoenv install`` that a plan exists for."""
    probe, matrix = environment.probe, environment.matrix
    locks = locks_for(probe, matrix, data)
    for wish in _wishes(environment):
        try:
            resolve(probe, matrix, locks, Wishes(stack=wish))
        except NoStackFits:
            continue
        words = [*program.split(), "install"]
        if environment.planned is not None:
            words += [f"--{probe.host.kind}"] if probe.host.kind in _IMAGES else []
        elif not is_running_interpreter(Path(probe.interpreter.executable)):
            words += ["--python", probe.interpreter.executable]
        return shlex.join([*words, "--stack", wish])
    if probe.host.kind in _IMAGES and environment.planned is None:
        return "start a new runtime (Runtime > Disconnect and delete runtime), then install again"
    return f"{program} matrix show"


def _wishes(environment: Environment) -> list[str]:
    wishes = [environment.stack.id] if environment.stack else []
    wishes += ["unsloth"] if NormalizedName("unsloth") in environment.installed else []
    return [*wishes, "trl", "unsloth"]
