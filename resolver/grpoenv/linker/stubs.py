"""What torch has that is compiled: its wheel lists the names in stubs, for type checkers.

Two of them are made from the compiled module's own registries of functions and types, so that a
function or a dtype which they lack is none of that release (``torch.float8_e8m0fnu`` before 2.7).
"""

from __future__ import annotations

import re

from grpoenv.source_tree import SourceTree

__all__ = ["MODULE", "is_listed", "stub_names"]

MODULE = "torch"
_STUBS = ("torch/_C/__init__.pyi", "torch/_C/_VariableFunctions.pyi")
_LISTED = re.compile(r"[a-z][a-z0-9_]*")
_UNLISTED = re.compile(r"u?int[1-7]|\w*(?:autocast|sym_)\w*")
"""Public names that some release has and none of its stubs lists."""


def is_listed(name: str) -> bool:
    """Tell whether torch's stubs would list a name, were it there."""
    return bool(_LISTED.fullmatch(name)) and not _UNLISTED.fullmatch(name)


def stub_names(tree: SourceTree) -> frozenset[str] | None:
    """Return every word of torch's stubs, None where one of them is not there."""
    try:
        texts = [tree.read(path).decode("utf-8", "replace") for path in _STUBS]
    except (OSError, KeyError, ValueError):
        return None
    return frozenset(re.findall(r"\w+", "\n".join(texts)))
