"""Show how an install goes: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.status import Status

from grpoenv.probe import Probe
from grpoenv.report import plan_text
from grpoenv.resolve import Plan

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ConsoleReporter", "SilentReporter"]

_WORTH_SHOWING = re.compile(
    r"^\s*(Downloading|Downloaded|Prepared|Installed|Uninstalled|warning|error)\b", re.IGNORECASE
)


class SilentReporter:
    """Shows nothing; for ``--json``."""

    def recovered(self, packages: Sequence[str]) -> None:
        """Show nothing."""

    def planned(self, plan: Plan, probe: Probe) -> None:
        """Show nothing."""

    def message(self, line: str) -> None:
        """Show nothing."""


class ConsoleReporter:
    """Writes to ``stream`` (standard error): what uv does now as one live line on a terminal, else line by line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status:
            self._status.stop()

    def recovered(self, packages: Sequence[str]) -> None:
        """Say that a change which was cut off has been undone."""
        print(
            f"an earlier change was cut off and has been undone: {', '.join(packages)}",
            file=self._stream,
        )

    def planned(self, plan: Plan, probe: Probe) -> None:
        """Show the plan, and start the live line."""
        print(plan_text(plan), file=self._stream, flush=True)
        if plan.changes and self._stream.isatty():
            self._status = Console(file=self._stream).status("installing")
            self._status.start()

    def message(self, line: str) -> None:
        """Show one line of uv's."""
        if not _WORTH_SHOWING.match(line):
            return
        if self._status:
            self._status.update(line.strip(), spinner="line")
        else:
            print(line.strip(), file=self._stream, flush=True)
