"""What the update check can answer, and the sentence that tells the user."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NewerRelease", "NotDetermined", "UpToDate", "UpdateResult", "notice"]


@dataclass(frozen=True)
class UpToDate:
    """No release newer than `installed` is offered for this Python."""

    installed: str


@dataclass(frozen=True)
class NewerRelease:
    """`newest` is a final, not withdrawn release newer than `installed`."""

    installed: str
    newest: str


@dataclass(frozen=True)
class NotDetermined:
    """The question has no answer now; `reason` is our own text, never the server's."""

    reason: str


UpdateResult = UpToDate | NewerRelease | NotDetermined


def notice(result: UpdateResult | None) -> str | None:
    """Return the one sentence to show a user for `result`, or None where there is nothing to say.

    It holds no text from the network but a version made of digits and dots.
    """
    if not isinstance(result, NewerRelease):
        return None
    return (
        f"grpoenv {result.newest} is available (this is {result.installed}); "
        "`grpoenv update` says what it changes. GRPOENV_NO_UPDATE_CHECK=1 stops this message."
    )
