"""Findings that are kept in the user's cache until something that they were made from changes.

They hang on a key (grpoenv's own sources, the RECORDs of the packages, what a check adds to it) and
on the size and time of each file that was read and of each folder that was looked in.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv import __version__
from grpoenv.checks.interface import Environment, Finding, Severity
from grpoenv.private_cache import read_private, user_cache_folder, write_private

__all__ = ["Made", "kept_findings", "key_of"]

_LIMIT_BYTES = 16 * 1024 * 1024

Made = tuple[list[Finding], list[str]]
"""What a check found, and the paths that it looked at for that: files, and folders listed."""


def kept_findings(name: str, key: str, make: Callable[[], Made]) -> list[Finding]:
    """Return what was kept under ``name`` and ``key``, or what ``make`` finds; keep that."""
    file, folder = f"{name}-{key[:16]}.json", user_cache_folder()
    found = _kept(folder, file, key)
    if found is None:
        found, files = make()
        _keep(folder, file, key, found, files)
    return found


def key_of(
    environment: Environment,
    names: Iterable[NormalizedName],
    sources: Iterable[Path],
    *more: object,
) -> str:
    """Return what changes with the packages ``names``, with ``more`` and with grpoenv itself.

    ``sources`` are the modules of grpoenv that the findings come from.
    """
    digest = hashlib.sha256(f"{__version__} {sys.version_info[:2]}".encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    interpreter = environment.probe.interpreter
    digest.update(f"{interpreter.version} {environment.probe.system}".encode())
    digest.update(f"{environment.probe.machine} {environment.complete} {more}".encode())
    for name in names:
        digest.update(environment.installed[name].fingerprint())
    return digest.hexdigest()


def _stamp(path: str) -> list[int]:
    """Return what changes with a file, or with the names in a folder; empty where nothing is."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _kept(folder: Path, file: str, key: str) -> list[Finding] | None:
    raw = read_private(folder, file, _LIMIT_BYTES)
    try:
        data = json.loads(raw or b"")
        if data["key"] != key or any(_stamp(p) != s for p, s in data["files"].items()):
            return None
        return [
            Finding(**{**f, "severity": Severity(f["severity"]), "chain": tuple(f["chain"])})
            for f in data["findings"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _keep(
    folder: Path, file: str, key: str, findings: Iterable[Finding], files: Iterable[str]
) -> None:
    stamps = {path: _stamp(path) for path in files}
    data = {"key": key, "files": stamps, "findings": [asdict(finding) for finding in findings]}
    write_private(folder, file, json.dumps(data).encode())
