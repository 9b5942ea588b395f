"""The spans of wheels that were fetched, kept in the user's cache.

One file for a wheel, named by the SHA-256 that the index states for it: a line of JSON with the
wheel's size and the spans, then their bytes. A file is replaced as a whole, so that processes may
share the folder; what is lost or damaged is fetched again, because every file of the wheel is
proven by its CRC when it is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Final

from grpoenv.private_cache import read_private, user_cache_folder, write_private
from grpoenv.wheels.range_file import RangeFile
from grpoenv.wheels.transfer import Span

__all__ = ["SpanStore"]

STORE_LIMIT_BYTES: Final = 2 * 2**30
_ENTRY_LIMIT_BYTES: Final = 256 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENDING: Final = ".spans-v1"


class SpanStore:
    """The cache in ``folder``, by default the user's, of ``limit_bytes`` at the most."""

    def __init__(self, folder: Path | None = None, *, limit_bytes: int = STORE_LIMIT_BYTES) -> None:
        self._folder = folder or user_cache_folder() / "wheels"
        self._limit_bytes = limit_bytes

    def load(self, sha256: str, file: RangeFile) -> bool:
        """Add what is kept of a wheel to ``file``; tell whether there was anything to use."""
        if not _SHA256.fullmatch(sha256):
            return False
        raw = read_private(self._folder, sha256 + _ENDING, _ENTRY_LIMIT_BYTES)
        if raw is None:
            return False
        try:
            spans = _parsed(raw, file.size)
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        for span in spans:
            file.add(span)
        with contextlib.suppress(OSError):
            os.utime(self._folder / (sha256 + _ENDING))  # the oldest are dropped first
        return bool(spans)

    def save(self, sha256: str, file: RangeFile) -> None:
        """Keep what is here of a wheel; does nothing where that is not possible."""
        pieces = file.held()
        if not _SHA256.fullmatch(sha256) or sum(len(piece) for _, piece in pieces) > (
            _ENTRY_LIMIT_BYTES // 2
        ):
            return
        head = {"size": file.size, "spans": [[start, len(piece)] for start, piece in pieces]}
        content = b"".join([json.dumps(head).encode(), b"\n", *(piece for _, piece in pieces)])
        write_private(self._folder, sha256 + _ENDING, content)

    def trim(self) -> None:
        """Drop the entries that were not used for longest until the rest is within the limit."""
        with contextlib.suppress(OSError):
            entries = [entry for entry in os.scandir(self._folder) if entry.name.endswith(_ENDING)]
            status = {entry.path: entry.stat(follow_symlinks=False) for entry in entries}
            total = sum(one.st_size for one in status.values())
            for path in sorted(status, key=lambda path: status[path].st_mtime):
                if total <= self._limit_bytes:
                    return
                total -= status[path].st_size
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    os.unlink(path)


def _parsed(raw: bytes, size: int) -> list[Span]:
    """Return the spans of an entry; raises ValueError and others where it is none for ``size``."""
    line, _, body = raw.partition(b"\n")
    head = json.loads(line)
    if head["size"] != size:
        raise ValueError("another size")
    spans, at = [], 0
    for start, length in head["spans"]:
        data = body[at : at + length]
        if not 0 <= start <= start + length <= size or len(data) != length:
            raise ValueError("a span that cannot be")
        spans.append(Span(start, data, size))
        at += length
    return spans
