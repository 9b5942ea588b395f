"""The matrix as one HTML page to look around in: stacks, pairs, and what broke when.

The page is hand-written and lies beside this module: ``page.html``, ``page.css`` and the scripts,
which show what ``content`` makes of the matrix. It loads nothing and sends nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpoenv.html_document import document

__all__ = ["page_text"]

_FOLDER = Path(__file__).parent
_SCRIPTS = ("elements.js", "stacks.js", "pair_map.js", "pairs.js", "timelines.js", "page.js")
"""In the order in which they need each other; together they are one module."""


def page_text(content: dict[str, Any]) -> str:
    """Return the page that shows ``content`` (``content.page_content``)."""
    return document(
        "grpoenv matrix",
        _read("page.css"),
        _read("page.html"),
        script="\n".join(map(_read, _SCRIPTS)),
        data=content,
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
