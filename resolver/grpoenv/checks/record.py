"""Every file that a package's RECORD lists, there and of the recorded size.

uv and pip can end with success and leave files missing after an interrupted install, and neither's
own check looks at files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.checks.requirements import chains, declared_requirements
from grpoenv.distributions import Distribution, leftovers

__all__ = ["CHECK", "broken_files", "is_damaged"]


def broken_files(distribution: Distribution) -> list[tuple[str, str]] | None:
    """Return each recorded file that is missing or of another size, with what is wrong.

    None if the distribution has no RECORD to compare with. Compiled ``.pyc`` files are left out:
    Python rewrites them at will.
    """
    recorded = distribution.recorded_files()
    if recorded is None:
        return None
    wrong = []
    for path, size in recorded:
        if path.endswith(".pyc"):
            continue
        try:
            found = os.stat(path).st_size
        except OSError as error:
            wrong.append((path, (error.strerror or str(error)).lower()))
        else:
            if size is not None and found != size:
                wrong.append((path, f"{found} bytes, recorded {size}"))
    return wrong


def is_damaged(distribution: Distribution) -> bool:
    """Tell whether files are missing or changed in size, or the RECORD of a wheel is gone."""
    wrong = broken_files(distribution)
    return bool(wrong) if wrong is not None else distribution.info.suffix == ".dist-info"


def _run(environment: Environment) -> Iterator[Finding]:
    yield from _leftovers(environment)
    needed = chains(environment, declared_requirements(environment))
    for name, distribution in environment.installed.items():
        if name not in needed:
            continue
        wrong, label = broken_files(distribution), environment.label(name)
        if wrong is None:
            if distribution.info.suffix == ".dist-info":
                yield Finding(
                    Severity.PROBLEM,
                    label,
                    "has no RECORD: its install was interrupted, or something removed it",
                    str(distribution.info),
                )
        elif wrong:
            path, why = wrong[0]
            yield Finding(
                Severity.PROBLEM,
                label,
                f"{len(wrong)} of its files are missing or changed in size, first {path} ({why})",
                f"{distribution.info / 'RECORD'}",
            )


def _leftovers(environment: Environment) -> Iterator[Finding]:
    for stale in leftovers(environment.installed):
        if environment.concerns(stale.name):
            yield Finding(
                Severity.PROBLEM,
                environment.label(stale.name),
                f"is there a second time, as {stale.version}: that copy was removed only in part",
                str(stale.info),
            )


CHECK = Check(
    "files",
    "every file of the stack, and of what it needs, is there, whole",
    _run,
    evidence="the paths and sizes in each package's RECORD",
    seconds=0.5,
)
