"""The frame of every HTML page that grpoenv writes: one file that loads nothing from anywhere.

A content security policy says so to the browser, too: only the style and the script that are
written into the page may work, told by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape

__all__ = ["document"]


def document(title: str, style: str, body: str, *, script: str = "", data: object = None) -> str:
    """Return a whole page; ``style``, ``body`` and ``script`` are ours, ``title`` is escaped.

    ``script`` is a module that runs when the page is read. It finds ``data``, which has to be JSON
    values, as the text of the element ``data``; no text in there can end that element.
    """
    parts = [body]
    if data is not None:
        parts.append(f'<script type="application/json" id="data">{_embedded(data)}</script>')
    if script:
        parts.append(f'<script type="module">{script}</script>')
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{chr(10).join(parts)}
</body>
</html>
"""


def _policy(style: str, script: str) -> str:
    sources = {"default-src": "'none'", "style-src": _digest(style)}
    if script:
        sources["script-src"] = _digest(script)
    sources |= {"base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{name} {source}" for name, source in sources.items())


def _digest(text: str) -> str:
    """Return the source expression that allows exactly this inline text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(data: object) -> str:
    """Return JSON in which no character means anything to an HTML parser."""
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
