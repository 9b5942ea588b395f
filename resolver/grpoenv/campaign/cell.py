"""One cell of a campaign: what is to be run, and what came of it. All of it goes through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grpoenv.campaign.limits import Limits
from grpoenv.matrix import Level

__all__ = ["CellFailure", "CellResult", "CellTask"]


@dataclass(frozen=True)
class CellTask:
    """A stack's target to be run, with all that a worker needs for it, on whatever machine.

    ``lock`` is the text of the lock, ``kept`` are packages of an image, for which the index's
    builds stand in, ``upto`` is the highest level asked for, and ``linked`` are the packages of the
    stack by canonical name.
    """

    stack: str
    runtime: str
    python: str
    platform: str
    lock: str
    sha256: str
    as_of: str
    upto: str
    versions: Mapping[str, str]
    kept: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def key(self) -> str:
        """What tells this cell from every other one: another lock makes another cell."""
        return f"{self.stack}/{self.python}/{self.platform}/{self.sha256}/{self.upto}"

    @property
    def name(self) -> str:
        """The cell's name in words."""
        return f"{self.stack}, Python {self.python}, {self.platform}"


@dataclass(frozen=True)
class CellFailure:
    """The first step that failed below ``level``, and its exception.

    ``taker`` and ``provider`` are the packages between which it arose, as ``name==version``, where
    that can be told, and ``symbol`` is what the one takes and the other lacks.
    """

    level: Level
    step: str
    error: str
    taker: str = ""
    provider: str = ""
    symbol: str = ""


@dataclass(frozen=True)
class CellResult:
    """What came of one cell.

    ``notes`` has a text for every level that was reached above ``resolved``; ``blocked`` says why
    the machine could not go on, which tells nothing of the stack; ``needs`` are packages that an
    import asked for and nothing declares, each with the reason for adding it.
    """

    key: str
    stack: str
    python: str
    platform: str
    sha256: str
    machine: str
    date: str
    notes: Mapping[Level, str]
    failures: tuple[CellFailure, ...] = ()
    blocked: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory_mib: int = 0
    log: str = ""

    @property
    def level(self) -> Level:
        """The highest level that was reached."""
        return max(self.notes, default=Level.RESOLVED)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; ``from_json`` is the inverse."""
        data = asdict(self)
        data["notes"] = {str(level): note for level, note in self.notes.items()}
        data["failures"] = [{**asdict(one), "level": str(one.level)} for one in self.failures]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CellResult:
        """Return the result that ``to_json`` made ``data`` of."""
        failures = [
            CellFailure(**{**one, "level": _level(one["level"])}) for one in data["failures"]
        ]
        notes = {_level(name): note for name, note in data["notes"].items()}
        more = {"notes": notes, "failures": tuple(failures)}
        return cls(**{**data, **more})


def _level(name: str) -> Level:
    return Level[name.upper()]
