"""Every file of the stack's packages against the SHA-256 in its package's RECORD.

Sizes alone (``record``) miss an edit of the same length. Where files are hard links, an edit in one
environment is in all of them and in uv's cache as well.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grpoenv.checks.interface import Check, Environment, Finding, Severity
from grpoenv.distributions import Distribution

__all__ = ["CHECK"]

_CHUNK_BYTES = 1 << 20
_ALGORITHMS = ("sha256", "sha384", "sha512")


def _run(environment: Environment) -> Iterator[Finding]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, distribution in environment.installed.items():
            if not environment.concerns(name):
                continue
            recorded = distribution.recorded_hashes()
            found = pool.map(_differs, recorded)
            changed = [path for (path, *_), differs in zip(recorded, found, strict=True) if differs]
            if changed:
                yield _finding(environment.label(name), distribution, changed)


def _finding(label: str, distribution: Distribution, changed: list[str]) -> Finding:
    return Finding(
        Severity.PROBLEM,
        label,
        f"{len(changed)} of its files are not what was installed, first {changed[0]}",
        f"hashes in {distribution.info / 'RECORD'}",
    )


def _differs(entry: tuple[str, str, str]) -> bool:
    """Tell whether a file has another hash; one that is missing is for ``record`` to report."""
    path, algorithm, expected = entry
    if algorithm not in _ALGORITHMS:
        return False
    digest = hashlib.new(algorithm)
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() != expected


CHECK = Check(
    "hashes",
    "every file of the stack's packages is the one that was installed",
    _run,
    evidence="the hashes in each package's RECORD",
    seconds=120.0,
    deep=True,
)
