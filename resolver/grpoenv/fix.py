"""Run the remedies that a verdict names, after they were shown and agreed to."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from grpoenv.errors import OperationError
from grpoenv.report_verdict import remedies
from grpoenv.verify import Verdict

__all__ = ["Fixes", "plan_fixes", "run_fixes"]

_CACHE = "unsloth_compiled_cache"


@dataclass(frozen=True)
class Fixes:
    """What can be done here (``commands``), and what the user alone can do (``by_hand``)."""

    commands: tuple[tuple[str, ...], ...]
    by_hand: tuple[str, ...]


def plan_fixes(verdict: Verdict, program: str) -> Fixes:
    """Sort the remedies of ``verdict``: grpoenv's own installs and a stale cache can be run.

    A change of the system, or of the user's script, is left to the user.
    """
    commands, by_hand = [], []
    for remedy in remedies(verdict):
        words = _words(remedy)
        head = program.split()
        is_install = words[: len(head)] == head and words[len(head) : len(head) + 1] == ["install"]
        if is_install or _removes_cache(words):
            commands.append(tuple(words))
        else:
            by_hand.append(remedy)
    return Fixes(tuple(commands), tuple(by_hand))


def run_fixes(fixes: Fixes, program: str) -> None:
    """Run the commands of ``fixes``; raises OperationError with the first that fails."""
    for command in fixes.commands:
        if _removes_cache(list(command)):
            _remove(Path(command[-1]))
            continue
        arguments = command[len(program.split()) :]
        # Standard output is the report's.
        done = subprocess.run(
            [sys.executable, "-m", "grpoenv", *arguments], stdout=sys.stderr, check=False
        )
        # 1 and 3 are verdicts of the new environment, which the caller looks at anyway.
        if done.returncode not in (0, 1, 3):
            raise OperationError(f"{shlex.join(command)} ended with {done.returncode}")


def _removes_cache(words: list[str]) -> bool:
    return len(words) == 3 and words[:2] == ["rm", "-r"] and Path(words[2]).name == _CACHE


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OperationError(f"{folder} cannot be removed: {error.strerror}") from error


def _words(remedy: str) -> list[str]:
    try:
        return shlex.split(remedy)
    except ValueError:
        return []
