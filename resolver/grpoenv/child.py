"""Ask a question that only running code of the environment can answer: in a child, within a time.

The child is the interpreter under test, in a folder of its own and without the user's site and
PYTHON* variables. It may hang, crash or print what it likes: each ends as an answer with a reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Answered", "Failed", "ask"]

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled"}
_TAIL = 300


@dataclass(frozen=True)
class Answered:
    """The child ended by itself, with ``status``.

    ``value`` is the JSON object on its last line of output, empty where that line is none.
    """

    status: int
    value: dict[str, Any]
    output: str


@dataclass(frozen=True)
class Failed:
    """The child gave no answer, for ``reason``."""

    reason: str


def ask(
    python: str,
    arguments: Sequence[str | Path],
    *,
    timeout_s: float,
    variables: Mapping[str, str] = os.environ,
) -> Answered | Failed:
    """Run ``python -I ARGUMENTS…`` and return its answer; never raises, never takes much longer.

    The hub is off for it, and it and its children are killed after ``timeout_s`` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="grpoenv-", ignore_cleanup_errors=True) as folder:
        try:
            process = subprocess.Popen(
                [python, "-I", *map(str, arguments)],
                cwd=folder,
                env={**variables, **_OFFLINE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return Failed(f"{python} cannot be run: {error.strerror}")
        with process:
            try:
                output, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return Failed(f"no answer within {timeout_s:g} s")
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Failed(f"ended by {name} {_tail(output)}".strip())
    return Answered(process.returncode, _last_object(output), _tail(output))


def _last_object(output: str) -> dict[str, Any]:
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _tail(output: str) -> str:
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-_TAIL:]
