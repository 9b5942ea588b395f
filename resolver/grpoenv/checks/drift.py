"""What is installed, against the stack that grpoenv installed here."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.utils import NormalizedName

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.resolve import brings_own_cuda, satisfies

__all__ = ["CHECK"]

_TORCH = NormalizedName("torch")
_RUNTIMES = (NormalizedName("unsloth"), NormalizedName("trl"))


def _run(environment: Environment) -> Iterator[Finding]:
    stack, lock = environment.stack, environment.lock
    if stack is None or lock is None:
        if not any(name in environment.installed for name in _RUNTIMES):
            yield Finding(
                # An environment for something else is sound for that; an empty one is for nothing.
                Severity.WARNING if _TORCH in environment.installed else Severity.PROBLEM,
                "unsloth, trl",
                "neither of them is installed",
                environment.probe.interpreter.purelib,
            )
        else:
            yield Finding(
                Severity.NOTE,
                "grpoenv",
                "did not install this environment, so there is no stack to compare it with",
                f"no record in {environment.probe.interpreter.purelib}",
            )
        return
    for name, pin in lock.pins.items():
        have = environment.versions.get(name)
        torch = environment.versions.get(_TORCH)
        if satisfies(have, pin) or (have is None and pin.cuda_only and brings_own_cuda(torch)):
            continue
        yield Finding(
            Severity.PROBLEM if name in stack.versions or have is None else Severity.WARNING,
            environment.label(name),
            f"is {'not installed' if have is None else 'installed'}, and stack {stack.id} was "
            f"tested with {pin.version}",
            f"lock of {stack.id}",
        )


CHECK = Check(
    "stack",
    "what is installed is the stack that was tested",
    _run,
    evidence="the lock of the stack that grpoenv installed here",
    seconds=0.1,
)
