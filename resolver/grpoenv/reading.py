"""Read text files that may be anything: too large, binary, not UTF-8."""

from __future__ import annotations

from pathlib import Path

from grpoenv.errors import InputError

__all__ = ["read_text"]


def read_text(path: Path, *, limit_bytes: int) -> str:
    """Return the UTF-8 text of ``path``.

    Raises InputError, naming the file and where possible the line, if it cannot be read, is larger
    than ``limit_bytes``, starts with a byte-order mark, or holds a NUL byte or anything that is not
    UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit_bytes + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=path) from error
    if len(raw) > limit_bytes:
        raise InputError(
            f"is larger than the {limit_bytes:,} bytes that such a file may have", path=path
        )
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InputError("starts with a byte-order mark; save it as plain UTF-8", path=path, line=1)
    if (position := raw.find(b"\0")) >= 0:
        raise InputError("holds a NUL byte", path=path, line=raw.count(b"\n", 0, position) + 1)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"is not UTF-8: byte 0x{raw[error.start]:02x}", path=path, line=line
        ) from error
