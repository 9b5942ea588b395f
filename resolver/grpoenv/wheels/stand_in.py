"""A stand-in for the wheel that a source distribution would build: its modules and its metadata.

deepspeed, flash-attn and others are published as sources alone, and building them runs their code
and wants a compiler. To look into them neither is needed. What a build adds (compiled modules,
generated ones) is not in a stand-in, and it says so of itself.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Final

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.source_tree import UNBUILT
from grpoenv.wheels.errors import DamagedWheel

__all__ = ["is_stand_in", "stand_in", "stand_in_filename"]

_BUILD_TAG: Final = "0unbuilt"
_UNPACKED_LIMIT_BYTES: Final = 256 * 2**20
_FILE_LIMIT_BYTES: Final = 16 * 2**20
_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The same sources give the same bytes."""
_NO_MODULE: Final = frozenset(
    ("benchmark", "benchmarks", "docs", "examples", "scripts", "setup", "test", "tests", "tools")
)
_ERRORS: Final = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, UnicodeError)
"""What tarfile and gzip raise on archives that are broken or made to break them."""


def stand_in_filename(name: NormalizedName, version: Version) -> str:
    """Return the file name of a stand-in; its build tag tells it from a wheel that was built."""
    return f"{name.replace('-', '_')}-{version}-{_BUILD_TAG}-py3-none-any.whl"


def is_stand_in(filename: str) -> bool:
    """Tell whether a wheel's name is that of a stand-in."""
    return f"-{_BUILD_TAG}-" in filename


def stand_in(sdist: bytes, name: NormalizedName, version: Version) -> bytes:
    """Return the content of a wheel with the modules of ``sdist``, a ``.tar.gz``.

    Raises DamagedWheel where that is no archive, is too large, or has no PKG-INFO.
    """
    label = f"the source distribution of {name} {version}"
    try:
        files = dict(_files(sdist))
    except _ERRORS as error:
        raise DamagedWheel(f"{label} cannot be unpacked: {error}") from error
    if "PKG-INFO" not in files:
        raise DamagedWheel(f"{label} has no PKG-INFO")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    content = {
        **{path: files[source] for path, source in _modules(files).items()},
        f"{info}/METADATA": files["PKG-INFO"],
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info.removesuffix('.dist-info')}{UNBUILT}": b"",
        f"{info}/RECORD": b"",
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in sorted(content):
            wheel.writestr(zipfile.ZipInfo(path, _TIME), content[path], zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _files(sdist: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what is read of an sdist, by its path below the one folder that all lies in."""
    with tarfile.open(fileobj=_Bounded(gzip.GzipFile(fileobj=io.BytesIO(sdist))), mode="r|") as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            wanted = path.endswith((".py", ".egg-info/top_level.txt")) or path == "PKG-INFO"
            if not (wanted and member.isfile()) or ".." in path.split("/"):
                continue
            if member.size > _FILE_LIMIT_BYTES:
                raise ValueError(f"{path} has {member.size:,} bytes")
            if (file := tar.extractfile(member)) is not None:
                yield path, file.read()


class _Bounded(io.RawIOBase):
    """Reads what is unpacked, up to a limit: a small archive can hold any amount."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._left = _UNPACKED_LIMIT_BYTES

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read on; raises ValueError past the limit."""
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_UNPACKED_LIMIT_BYTES:,} bytes")
        return data


def _modules(files: dict[str, bytes]) -> dict[str, str]:
    """Return the path in site-packages of each module, with its path in the sdist."""
    named = {
        word
        for path, content in files.items()
        if path.endswith("/top_level.txt")
        for word in re.findall(r"^\w+$", content.decode("utf-8", errors="replace"), re.MULTILINE)
    }
    found = {}
    for source in files:
        path = source.removeprefix("src/")
        top, below, _ = path.partition("/")
        name = top if below else top.removesuffix(".py")
        importable = below and f"{source.removesuffix(path)}{top}/__init__.py" in files
        if path.endswith(".py") and (name in named if named else importable):
            if named or name not in _NO_MODULE:
                found[path] = source
    return found
