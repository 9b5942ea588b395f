"""What torch has that is compiled: its wheel lists most of it in a stub for type checkers.

The list comes with each release, so that a dtype which it lacks is not there
(``torch.float8_e8m0fnu`` before 2.7). Other names are less certain: devices of other makers give
torch modules of their own, and not every function is listed.
"""

from __future__ import annotations

import re

from grpoenv.source_tree import SourceTree

__all__ = ["MODULE", "is_dtype", "is_shown", "stub_names"]

MODULE = "torch"
_STUBS = ("torch/_C/__init__.pyi", "torch/_C/_VariableFunctions.pyi", "torch/functional.py")
"""Where the names are that torch's own module takes by a star."""
_DTYPE = re.compile(r"(?:bfloat|bits|complex|float|q?u?int)\d[a-z0-9_]*")
_UNLISTED = re.compile(r"u?int[1-7]")
"""Dtypes that some release has and its stub does not list."""
_SHOWN = re.compile(r"(?!(?:gcu|hpu|mlu|musa|npu|sdaa|xla)$|.*(?:vital|_autocast_))[a-z][a-z0-9_]*")
"""Names of functions and modules, but for other makers' devices and what no release lists."""


def is_dtype(name: str) -> bool:
    """Tell whether a name is that of a dtype which the stub would list, were it there."""
    return bool(_DTYPE.fullmatch(name)) and not _UNLISTED.fullmatch(name)


def is_shown(name: str) -> bool:
    """Tell whether torch's module or its stub would show a name, were it there."""
    return bool(_SHOWN.fullmatch(name)) and not _UNLISTED.fullmatch(name)


def stub_names(tree: SourceTree) -> frozenset[str]:
    """Return every word of torch's stubs, none where the first of them cannot be read."""
    words: set[str] = set()
    for path in _STUBS:
        try:
            words.update(re.findall(r"\w+", tree.read(path).decode("utf-8", "replace")))
        except (OSError, KeyError, ValueError):
            if path == _STUBS[0]:
                return frozenset()
    return frozenset(words)
