"""Breaks that the outcomes of a scan show and the matrix does not have yet.

Outcomes with the same missing thing between the same two packages are one break. Its ranges reach
from the oldest to the newest version of each that was met so; where a set inside of them links, each
version of the provider has a break of its own.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.matrix import Matrix
from grpoenv.releases import BROKEN, LINKED, Outcome, Releases
from grpoenv.scan.report import known_break

__all__ = ["COMMAND", "new_breaks"]

COMMAND = "grpoenv matrix scan"
_CLASSES = {
    "ModuleNotFoundError": "moved-module",
    "KeyError": "missing-key",
    "TypeError": "signature",
}
"""The class of a break by what Python raises; anything else is a missing name."""


@dataclass(frozen=True)
class _Kind:
    """What is the same in all outcomes of a break."""

    consumer: NormalizedName
    provider: NormalizedName
    exception: str
    symbol: str


@dataclass(frozen=True, order=True)
class _Point:
    """One outcome: the versions of consumer and provider, and where the one takes the symbol."""

    consumer: Version
    provider: Version
    at: str


def new_breaks(releases: Releases, matrix: Matrix, machine: str) -> list[dict[str, Any]]:
    """Return the breaks as rows of the matrix; evidence says that ``machine`` found them.

    What a package lacks of itself, or because something is not installed, is no break of two.
    """
    outcomes = [
        outcome for row in releases.rows for outcome in (row.day, *row.tried, row.today) if outcome
    ]
    found: dict[_Kind, set[_Point]] = {}
    for outcome in outcomes:
        if (seen := _seen(outcome)) and not known_break(outcome, matrix):
            found.setdefault(seen[0], set()).add(seen[1])
    ids = {row.id for row in matrix.breaks}
    rows = []
    for kind, points in found.items():
        for part in _parts(kind, sorted(points), outcomes):
            rows.append(_row(kind, part, _new_id(kind, part, ids), releases.date, machine))
    return sorted(rows, key=lambda row: str(row["id"]))


def _seen(outcome: Outcome) -> tuple[_Kind, _Point] | None:
    names = [text.split(" ") for text in outcome.culprit.split(" with ")]
    if outcome.verdict not in BROKEN or [len(name) for name in names] != [2, 2]:
        return None
    (consumer, its), (provider, other) = names
    kind = _Kind(
        NormalizedName(consumer), NormalizedName(provider), outcome.exception, outcome.symbol
    )
    return kind, _Point(Version(its), Version(other), outcome.at)


def _parts(
    kind: _Kind, points: Sequence[_Point], outcomes: Iterable[Outcome]
) -> Iterator[Sequence[_Point]]:
    """Yield groups of points between which no outcome is linked."""
    linked = [
        (Version(outcome.versions[kind.consumer]), Version(outcome.versions[kind.provider]))
        for outcome in outcomes
        if outcome.verdict == LINKED and {kind.consumer, kind.provider} <= outcome.versions.keys()
    ]
    if not _inside(points, linked):
        yield points
        return
    for provider in sorted({point.provider for point in points}):
        part = list[_Point]()
        for point in points:
            if point.provider != provider:
                continue
            if part and _inside([*part, point], linked):
                yield part
                part = []
            part.append(point)
        yield part


def _inside(points: Sequence[_Point], linked: Iterable[tuple[Version, Version]]) -> bool:
    """Tell whether one of ``linked`` lies in the range of both versions that ``points`` span."""
    ours, theirs = ([p.consumer for p in points], [p.provider for p in points])
    return any(
        min(ours) <= its <= max(ours) and min(theirs) <= other <= max(theirs)
        for its, other in linked
    )


def _row(
    kind: _Kind, points: Sequence[_Point], name: str, date: str, machine: str
) -> dict[str, Any]:
    sets = f"{len(points)} set{'s' if len(points) > 1 else ''} of a scan"
    return {
        "id": name,
        "class": _CLASSES.get(kind.exception, "missing-name"),
        "summary": _summary(kind),
        "symptom": f"{kind.exception}: {kind.symbol}",
        "symbol": kind.symbol,
        "when": {
            kind.consumer: _range([point.consumer for point in points]),
            kind.provider: _range([point.provider for point in points]),
        },
        "evidence": [
            {
                "date": datetime.date.fromisoformat(date),
                "machine": machine,
                "command": COMMAND,
                "note": f"told from the sources of {sets}, not executed; {points[-1].at}",
            }
        ],
    }


def _summary(kind: _Kind) -> str:
    if kind.exception == "TypeError":
        return f"this {kind.provider} does not take what {kind.consumer} gives it"
    return f"{kind.consumer} takes what this {kind.provider} does not have"


def _range(versions: Sequence[Version]) -> str:
    least, most = min(versions), max(versions)
    return f"=={least}" if least == most else f">={least},<={most}"


def _new_id(kind: _Kind, points: Sequence[_Point], taken: set[str]) -> str:
    last = re.sub(r"[^a-z0-9]+", "-", kind.symbol.rpartition(".")[2].lower()).strip("-")
    name = f"{kind.consumer}-{last}"
    for version in (points[-1].provider, points[-1].consumer):
        if name in taken:
            name = f"{name}-{version}"
    taken.add(name)
    return name
