"""Where the matrix and the locks lie: inside the wheel, or at the root of a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DataPaths", "data_paths"]

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DataPaths:
    """The data of one grpoenv: ``matrix`` is a file, ``locks`` a folder."""

    matrix: Path
    locks: Path


def data_paths() -> DataPaths:
    """Return the paths of the data that belong to the running grpoenv.

    A checkout goes first: an editable install leaves a stale copy of the data beside the package.
    """
    checkout = _PACKAGE.parent.parent
    root = checkout if (checkout / "compat-matrix.toml").is_file() else _PACKAGE / "data"
    return DataPaths(matrix=root / "compat-matrix.toml", locks=root / "lockfiles")
