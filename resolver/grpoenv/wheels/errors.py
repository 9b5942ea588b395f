"""Why a wheel could not be read."""

from __future__ import annotations

from grpoenv.errors import UndeterminedError

__all__ = ["DamagedWheel", "TransferError", "WheelError"]


class WheelError(UndeterminedError):
    """A wheel could not be read, so nothing can be said about what is in it."""


class TransferError(WheelError):
    """A server did not give what was asked for."""


class DamagedWheel(WheelError):
    """An archive is broken, or claims what cannot be true or is not safe to believe."""
