"""The record of the stack that grpoenv installed into an environment."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from grpoenv import __version__
from grpoenv.matrix import Matrix, Stack, Target
from grpoenv.probe import Interpreter
from grpoenv.transaction import state_folder

__all__ = ["InstalledStack", "find_stack", "read_installed_stack", "write_installed_stack"]

_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True)
class InstalledStack:
    """Which stack was installed, from which lock (path and SHA-256), when and by what."""

    stack: str
    lock: str
    sha256: str
    installed: str
    grpoenv: str = __version__


def write_installed_stack(interpreter: Interpreter, stack: Stack, target: Target) -> None:
    """Record that ``stack`` is what the environment of ``interpreter`` holds.

    A record that says so already is left as it is: an install that changes nothing writes nothing.
    """
    known = read_installed_stack(interpreter)
    if known and (known.stack, known.sha256) == (stack.id, target.sha256):
        return
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = InstalledStack(stack.id, target.lock, target.sha256, now)
    path = _path(interpreter)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def read_installed_stack(interpreter: Interpreter) -> InstalledStack | None:
    """Return the record, None if there is none or it cannot be read: it is disposable."""
    try:
        raw = _path(interpreter).read_bytes()[:_LIMIT_BYTES]
        return InstalledStack(**json.loads(raw))
    except (OSError, ValueError, TypeError):
        return None


def find_stack(matrix: Matrix, record: InstalledStack | None) -> tuple[Stack, Target] | None:
    """Return the stack and target of ``record``, None if ``matrix`` no longer has that very lock."""
    if record is not None:
        for stack in matrix.stacks:
            for target in stack.targets:
                if stack.id == record.stack and target.sha256 == record.sha256:
                    return stack, target
    return None


def _path(interpreter: Interpreter) -> Path:
    return state_folder(interpreter) / "stack.json"
