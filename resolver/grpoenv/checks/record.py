"""Every file that a package's RECORD lists, there and of the recorded size.

uv and pip can end with success and leave files missing after an interrupted install, and neither's
own check looks at files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.distributions import Distribution

__all__ = ["CHECK", "broken_files"]


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


def _run(environment: Environment) -> Iterator[Finding]:
    yield from _leftovers(environment)
    for name, distribution in environment.installed.items():
        if not environment.concerns(name):
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
    """Report names with two ``.dist-info`` folders: an uninstall was cut off half-way."""
    folder = Path(environment.probe.interpreter.purelib)
    names = Counter(
        canonicalize_name(entry.name.split("-")[0]) for entry in folder.glob("*.dist-info")
    )
    for name, count in names.items():
        if count > 1 and environment.concerns(name):
            yield Finding(
                Severity.PROBLEM,
                environment.label(name),
                f"is installed {count} times: an older copy was removed only in part",
                f"{folder}{os.sep}{name.replace('-', '_')}-*.dist-info",
            )


CHECK = Check("files", "every file of every package of the stack is there, whole", _run)
