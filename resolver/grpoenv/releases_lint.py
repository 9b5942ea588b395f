"""What a schema cannot say of the releases: that each says one thing, and not two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grpoenv.errors import InputError
from grpoenv.releases import BROKEN, LINKED, Outcome, Release, Releases

__all__ = ["lint_releases"]


def lint_releases(releases: Releases, path: Path) -> list[InputError]:
    """Return everything that is wrong in itself in ``releases``, which were read from ``path``."""
    return [
        InputError(message, path=path, field=f"{row.package} {row.version}")
        for row in releases.rows
        for message in _release(row, releases.date)
    ]


def _release(row: Release, today: str) -> Iterator[str]:
    if row.day and row.day.as_of != row.uploaded:
        yield f"was uploaded on {row.uploaded}, and its day is {row.day.as_of}"
    if row.today and row.today.as_of != today:
        yield f"has an outcome of {row.today.as_of}, and today is {today}"
    days = [one.as_of for one in row.tried if not one.also]
    if days != sorted(set(days)) or any(not row.uploaded < day < today for day in days):
        yield "was tried on days that are not in order between its own and today"
    if any(one.also and one.as_of != row.uploaded for one in row.tried):
        yield "was tried with more requirements as of another day than its own"
    for outcome in filter(None, [row.day, *row.tried, row.today]):
        for message in _outcome(row, outcome):
            yield f"as of {outcome.as_of} {message}"


def _outcome(row: Release, outcome: Outcome) -> Iterator[str]:
    chosen = outcome.versions.get(row.package)
    if outcome.versions and chosen != row.version:
        yield f"is about {row.package} {chosen}"
    if outcome.verdict == LINKED and (outcome.failure or not outcome.versions):
        yield "is linked, and has a failure or no set"
    if outcome.verdict in BROKEN:
        if not all([outcome.exception, outcome.symbol, outcome.culprit, outcome.at]):
            yield "is broken, and does not say what is missing where"
        yield from _culprit(outcome)
    elif outcome.verdict != LINKED and not outcome.reason:
        yield f"is {outcome.verdict}, and does not say why"


def _culprit(outcome: Outcome) -> Iterator[str]:
    for label in outcome.culprit.split(" with "):
        name, _, version = label.partition(" ")
        if name in outcome.versions and outcome.versions[name] != version:
            yield f"blames {label}, and has {name} {outcome.versions[name]}"
