"""Known breaks of the matrix that apply to what is installed."""

from __future__ import annotations

from collections.abc import Iterator

from grpoenv.checks.interface import Check, Environment, Finding, Severity

__all__ = ["CHECK"]


def _run(environment: Environment) -> Iterator[Finding]:
    for break_ in environment.matrix.breaks:
        if break_.applies(environment.versions):
            names = sorted(break_.when)
            reference = f", {break_.reference}" if break_.reference else ""
            yield Finding(
                Severity.PROBLEM,
                culprit=" with ".join(environment.label(name) for name in names),
                message=f"{break_.summary}: {break_.symptom}",
                evidence=f"break {break_.id}, seen {break_.evidence[0].date}{reference}",
                symbol=break_.symbol,
            )


CHECK = Check(
    "breaks",
    "no combination that is known not to work is installed",
    _run,
    evidence="the breaks of the matrix, each with its recorded run",
    seconds=0.1,
)
