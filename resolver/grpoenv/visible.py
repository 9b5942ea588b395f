"""Text that shows as it is: what comes from files and servers may hold terminal codes and worse."""

from __future__ import annotations

import unicodedata

__all__ = ["visible"]

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of what moves the cursor, turns the direction of writing or cannot be
encoded."""


def visible(text: str) -> str:
    """Return ``text`` with each such character but the newline as an escape of Python's."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char == "\n" or unicodedata.category(char) not in _HIDDEN
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
