"""Room for syntax trees and for deep nesting, while packages are linked."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["roomy"]

_DEPTH = 5_000


@contextmanager
def roomy() -> Iterator[None]:
    """Let syntax trees pile up without the collector walking them, and calls nest deeply."""
    collecting, depth = gc.isenabled(), sys.getrecursionlimit()
    gc.disable()
    sys.setrecursionlimit(max(depth, _DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(depth)
        if collecting:
            gc.enable()
