"""Which dtypes torch has: they are compiled, and its wheel lists them in a stub for type checkers.

The list comes with each release, so that a dtype which it lacks is not there
(``torch.float8_e8m0fnu`` before 2.7). Other compiled names are left alone: devices of other makers
give torch modules of their own, and not every function is listed.
"""

from __future__ import annotations

import re

from grpoenv.source_tree import SourceTree

__all__ = ["MODULE", "is_dtype", "stub_names"]

MODULE = "torch"
_STUB = "torch/_C/__init__.pyi"
_DTYPE = re.compile(r"(?:bfloat|bits|complex|float|q?u?int)\d[a-z0-9_]*")
_UNLISTED = re.compile(r"u?int[1-7]")
"""Dtypes that some release has and its stub does not list."""


def is_dtype(name: str) -> bool:
    """Tell whether a name is that of a dtype which the stub would list, were it there."""
    return bool(_DTYPE.fullmatch(name)) and not _UNLISTED.fullmatch(name)


def stub_names(tree: SourceTree) -> frozenset[str]:
    """Return every word of torch's stub, none where it cannot be read."""
    try:
        text = tree.read(_STUB).decode("utf-8", "replace")
    except (OSError, KeyError, ValueError):
        return frozenset()
    return frozenset(re.findall(r"\w+", text))
