"""A file of which some spans are in memory, and the rest is fetched when somebody reads it."""

from __future__ import annotations

import bisect
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from grpoenv.wheels.errors import DamagedWheel
from grpoenv.wheels.transfer import Span

__all__ = ["RangeFile"]

READ_LIMIT_BYTES: Final = 64 * 2**20
"""No one read is larger: the largest table of contents of the stack, torch's, has 1.2 MiB."""


class RangeFile(io.RawIOBase):
    """A seekable file of ``size`` bytes; ``fetch(start, end)`` gets what is not here yet.

    Spans can be added from several threads; the position belongs to one reader.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], Span]) -> None:
        super().__init__()
        self.size = size
        self._fetch = fetch
        self._position = 0
        self._starts: list[int] = []
        self._pieces: list[memoryview] = []
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that this has a position."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position; raises OSError where that is before the start."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(f"cannot move to {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, fetching what is missing; raises WheelError."""
        start = min(self._position, self.size)
        end = self.size if size < 0 else min(start + size, self.size)
        if end - start > READ_LIMIT_BYTES:
            raise DamagedWheel(f"the archive claims a part of {end - start:,} bytes")
        self.load([(start, end)])
        self._position = end
        return b"".join(self._held(start, end))

    def load(self, spans: Sequence[tuple[int, int]]) -> None:
        """Fetch what is missing of ``spans``, each (start, end), one after the other."""
        for start, end in self.missing(spans):
            self.add(self._fetch(start, end))

    def missing(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what is not here of ``spans``."""
        with self._lock:
            return [gap for start, end in spans for gap in self._gaps(start, end)]

    def add(self, span: Span) -> None:
        """Keep what was fetched; what is here already stays as it is."""
        with self._lock:
            view = memoryview(span.data)
            for start, end in self._gaps(span.start, span.start + len(span.data)):
                at = bisect.bisect(self._starts, start)
                self._starts.insert(at, start)
                self._pieces.insert(at, view[start - span.start : end - span.start])

    def held(self) -> list[tuple[int, memoryview]]:
        """Return each piece that is here with its start, in order."""
        with self._lock:
            return list(zip(self._starts, self._pieces, strict=True))

    def _gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        gaps = []
        for piece_start, piece_end in self._overlapping(start, end):
            if piece_start > start:
                gaps.append((start, piece_start))
            start = max(start, piece_end)
        if start < end:
            gaps.append((start, end))
        return gaps

    def _overlapping(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        at = max(bisect.bisect(self._starts, start) - 1, 0)
        for piece_start, piece in zip(self._starts[at:], self._pieces[at:], strict=True):
            if piece_start >= end:
                return
            if piece_start + len(piece) > start:
                yield piece_start, piece_start + len(piece)

    def _held(self, start: int, end: int) -> Iterator[memoryview]:
        with self._lock:
            at = max(bisect.bisect(self._starts, start) - 1, 0)
            for piece_start, piece in zip(self._starts[at:], self._pieces[at:], strict=True):
                if piece_start >= end:
                    return
                if part := piece[max(start - piece_start, 0) : end - piece_start]:
                    yield part
