"""A change that was cut off and not undone yet: whatever else looks right, it is not to be trusted."""

from __future__ import annotations

from collections.abc import Iterator

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.transaction import is_interrupted, state_folder

__all__ = ["CHECK"]


def _run(environment: Environment) -> Iterator[Finding]:
    interpreter = environment.probe.interpreter
    if is_interrupted(interpreter):
        yield Finding(
            Severity.PROBLEM,
            "grpoenv",
            "was cut off while it changed this environment; the next install undoes that first",
            str(state_folder(interpreter) / "journal"),
        )


CHECK = Check(
    "interrupted",
    "no change of the environment was cut off half-way",
    _run,
    evidence="the journal of grpoenv in the environment",
    seconds=0.1,
)
