"""The errors that grpoenv raises on purpose.

::

    GrpoenvError                 base: a message and what to do about it
    ├── InputError               an argument or a file that cannot be used          exit 2
    ├── NoStackFits              no tested stack fits this machine and these wishes exit 1
    ├── UndeterminedError        the question could not be answered                 exit 3
    └── OperationError           an operation failed; the environment is as it was  exit 4

Only the command line turns them into exit codes.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["GrpoenvError", "InputError", "NoStackFits", "OperationError", "UndeterminedError"]


class GrpoenvError(Exception):
    """Base of all errors raised on purpose.

    ``message`` says what was found, what was expected and where; ``remedy`` is one command or one
    sentence that tells the user what to do next.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InputError(GrpoenvError):
    """An argument or a file is wrong; ``path``, ``line`` and ``field`` tell where, if known."""

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        line: int | None = None,
        field: str = "",
        remedy: str = "",
    ) -> None:
        place = ""
        if path is not None:
            place = f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{place}{field + ': ' if field else ''}{message}", remedy=remedy)
        self.path = path
        self.line = line
        self.field = field


class NoStackFits(GrpoenvError):
    """No tested stack fits; the message lists the nearest ones and what each of them misses."""


class UndeterminedError(GrpoenvError):
    """A question could not be answered, and guessing would be worse."""


class OperationError(GrpoenvError):
    """An operation failed and what it had changed was put back."""
