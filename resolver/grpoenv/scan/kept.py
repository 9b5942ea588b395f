"""What a scan found before: JSON values by a digest of all that they hang on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from grpoenv.private_cache import read_private, user_cache_folder, write_private

__all__ = ["Kept"]

_LIMIT_BYTES = 1024 * 1024


class Kept:
    """The values of one ``kind``; a lost or damaged one is found anew."""

    def __init__(self, kind: str, folder: Path | None = None) -> None:
        self._folder = (folder or user_cache_folder()) / f"scan-{kind}"

    def get(self, *key: str) -> Any | None:
        """Return the value of ``key``, None where there is none."""
        raw = read_private(self._folder, _name(key), _LIMIT_BYTES)
        try:
            return None if raw is None else json.loads(raw)
        except ValueError:
            return None

    def put(self, value: object, *key: str) -> None:
        """Keep ``value`` where that is possible."""
        write_private(self._folder, _name(key), json.dumps(value).encode())


def _name(key: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(key).encode()).hexdigest() + ".json"
