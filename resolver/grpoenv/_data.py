"""Where the data of grpoenv lie: inside the wheel, or at the root of a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DataPaths", "data_paths", "pairs_path"]

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DataPaths:
    """The data of one grpoenv: ``matrix`` is a file, ``locks`` a folder."""

    matrix: Path
    locks: Path

    @property
    def releases(self) -> Path:
        """The file of all releases (``grpoenv.releases``), beside the matrix."""
        return self.matrix.with_name("compat-releases.jsonl")


def data_paths() -> DataPaths:
    """Return the paths of the data that belong to the running grpoenv.

    A checkout goes first: an editable install leaves a stale copy of the data beside the package.
    """
    root = _checkout() or _PACKAGE / "data"
    return DataPaths(matrix=root / "compat-matrix.toml", locks=root / "lockfiles")


def pairs_path() -> Path:
    """Return the path of the verdicts on all pairs (``pair_verdicts``) of the running grpoenv."""
    checkout = _checkout()
    return (checkout / "benchmarks" / "results" if checkout else _PACKAGE / "data") / "pairs.json"


def _checkout() -> Path | None:
    root = _PACKAGE.parent.parent
    return root if (root / "compat-matrix.toml").is_file() else None
