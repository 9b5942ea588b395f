"""Packages held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from packaging.utils import NormalizedName
from packaging.version import Version


@dataclass
class MemoryTree:
    """A package held in memory."""

    name: NormalizedName
    version: Version
    files: dict[str, bytes] = field(repr=False)

    def paths(self) -> Sequence[str]:
        return list(self.files)

    def read(self, path: str) -> bytes:
        return self.files[path]

    def locate(self, path: str) -> str:
        return f"/site/{path}"


def tree(name: str, version: str = "1.0", **files: str | bytes) -> MemoryTree:
    """Make a package; a file's name has ``__`` for ``/`` and no ending, ``init`` is its top."""
    package = name.replace("-", "_")
    raw = {
        f"{package}/{'__init__' if key == 'init' else key.replace('__', '/')}.py": (
            text if isinstance(text, bytes) else text.encode()
        )
        for key, text in {"init": "", **files}.items()
    }
    return MemoryTree(NormalizedName(name.replace("_", "-")), Version(version), raw)
