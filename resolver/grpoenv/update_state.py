"""The memory of the update check: when it last asked, and what it learned.

Kept in `update-v1.json` in the user's cache. Whatever is wrong with the file, it is treated as
absent; nothing in it is trusted beyond its type and form, and none of its text is shown but a
version made of digits and dots.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final, NamedTuple

from grpoenv.private_cache import read_private, write_private
from grpoenv.update_policy import LIMITS

__all__ = ["STATE_FILE", "UpdateState", "read_state", "write_state"]

STATE_FILE: Final = "update-v1.json"
_SCHEMA: Final = 1


class UpdateState(NamedTuple):
    """One entry: `stamp_s` in seconds since the epoch, `failures` in a row up to then.

    `newest` is the newer release found by the grpoenv of version `installed`, or None.
    """

    stamp_s: float
    failures: int = 0
    installed: str = ""
    newest: str | None = None


def read_state(folder: Path) -> UpdateState | None:
    """Return the state kept in `folder`, or None where there is none that can be trusted."""
    content = read_private(folder, STATE_FILE, LIMITS.state_bytes)
    if content is None:
        return None
    try:
        return _parsed(json.loads(content))
    except (ValueError, OverflowError, RecursionError):
        return None


def write_state(folder: Path, state: UpdateState) -> bool:
    """Replace the state in `folder`; return whether that worked."""
    content = json.dumps({"schema": _SCHEMA, **state._asdict()}, sort_keys=True)
    return write_private(folder, STATE_FILE, content.encode())


def _parsed(fields: object) -> UpdateState | None:
    if not isinstance(fields, dict) or fields.get("schema") != _SCHEMA:
        return None
    stamp_s, failures = fields.get("stamp_s"), fields.get("failures")
    installed, newest = fields.get("installed"), fields.get("newest")
    if not isinstance(stamp_s, int | float) or not math.isfinite(stamp_s) or stamp_s < 0:
        return None
    if not isinstance(failures, int) or failures < 0:
        return None
    if not isinstance(installed, str) or not (newest is None or _is_final_version(newest)):
        return None
    return UpdateState(float(stamp_s), failures, installed, newest)


def _is_final_version(value: object) -> bool:
    """Tell a final release, digits and dots, from anything else; `packaging` costs 50 ms."""
    if not isinstance(value, str) or len(value) > LIMITS.version_characters:
        return False
    return all(part.isascii() and part.isdecimal() for part in value.split("."))
