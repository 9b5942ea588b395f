"""Take out of a text what should not be shown to strangers."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["redacted"]

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_TOKEN = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|pypi-|AKIA|xox[abp]-)[A-Za-z0-9_\-]{12,}"
)
"""How the tokens of Hugging Face, GitHub, GitLab, OpenAI, package indexes, AWS and Slack begin."""


def redacted(text: str, home: Path) -> str:
    """Return ``text`` with ``~`` for the home folder, and without credentials and tokens."""
    if home != Path(home.anchor):
        text = re.sub(rf"{re.escape(str(home))}(?![\w.-])", "~", text)
    return _TOKEN.sub("[token]", _CREDENTIALS.sub("", text))
