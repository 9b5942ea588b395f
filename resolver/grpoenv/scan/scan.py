"""Which releases and days to look at, in what order, and what comes of it.

A release is looked at as of its day and as of today; where neither links, as of some days in
between: what was missing may have come a little later, before other packages moved on. Where that
does not help either, it is looked at with what the nearest rows of the matrix require besides.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv.errors import UndeterminedError
from grpoenv.matrix import Matrix
from grpoenv.probe import Probe
from grpoenv.releases import SCANNED, Outcome, Release, Releases
from grpoenv.scan.judgement import Judgement, judge_sets, kept_judgement
from grpoenv.scan.sets import Asked, WheelSet, find_sets
from grpoenv.update_network import effective_index
from grpoenv.wheels import PublishedRelease, RangeClient, WheelError, published_releases

__all__ = ["SINCE", "Scanner", "find_releases"]

SINCE = {
    NormalizedName("unsloth"): Version("2025.2"),
    NormalizedName("trl"): Version("0.15"),
    NormalizedName("unsloth-zoo"): Version("2025.2"),
}
"""The first release of each package that is looked at: from when it had GRPO."""
_LATER_DAYS = (3, 14, 45)
"""How many days after its own a release is tried, where neither its day nor today links."""
_NEAREST_ROWS = 2
"""How many rows of the matrix lend their requirements: one on either side, as a rule."""
_RUNS_OF_UV = 4
"""How many runs of uv go side by side for each worker: they wait for the index most of the time."""
_CHUNK = 64
"""How many releases are resolved before they are linked: what was found by then is kept."""


def find_releases(known: Releases) -> Releases:
    """Return ``known`` with the releases that the effective index has and it has not.

    What was yanked since is marked. Raises UndeterminedError where the index cannot be asked.
    """
    rows = {(row.package, row.version): row for row in known.rows}
    with closing(RangeClient(credentials=_index_address)) as client:
        index = _index_address()
        if index is None:
            raise UndeterminedError("uv names no package index", remedy="set UV_DEFAULT_INDEX")
        for package, since in SINCE.items():
            try:
                found = published_releases(package, index, client)
            except WheelError as error:
                raise UndeterminedError(error.message) from error
            for release in found:
                if release.version >= since and not release.version.is_prerelease:
                    key = (package, str(release.version))
                    row = rows.get(key) or _new(package, release)
                    rows[key] = replace(row, yanked=release.yanked)
    return replace(known, rows=tuple(rows.values()))


def _new(package: NormalizedName, release: PublishedRelease) -> Release:
    return Release(package, str(release.version), release.uploaded.date().isoformat())


def _index_address() -> str | None:
    address = effective_index(os.environ)
    return address.url if address else None


@dataclass(frozen=True)
class Scanner:
    """Looks at releases for the machine of ``probe``, ``workers`` sets at a time.

    The rows of ``matrix`` lend their requirements to releases near them. After ``seconds`` nothing
    new is begun; ``say`` is told how far it is.
    """

    probe: Probe
    matrix: Matrix
    workers: int = 2
    seconds: float = float("inf")
    say: Callable[[str], None] = lambda message: None

    def scan(self, releases: Releases, *, refresh: bool = False) -> Releases:
        """Return ``releases`` with every outcome that was still to be looked for.

        With ``refresh`` today's are looked for anew, as of this day.
        """
        if refresh:
            today = datetime.now(timezone.utc).date().isoformat()
            cleared = tuple(replace(row, today=None) for row in releases.rows)
            releases = replace(releases, date=today, rows=cleared)
        ends = time.monotonic() + self.seconds
        borrowing = [self._borrowing] * _NEAREST_ROWS
        for wanted in (_today, _day, *map(_later, _LATER_DAYS), *borrowing):
            releases = self._look(releases, wanted, ends)
        return releases

    def _borrowing(self, row: Release, today: str) -> Asked | None:
        tried = {"", *(one.also for one in row.tried)}
        new = [also for also in _required_nearby(row, self.matrix) if also not in tried]
        if row.row or row.day is None or not new:
            return None
        return Asked(row.package, row.version, row.uploaded, new[0])

    def _look(self, releases: Releases, wanted: _Question, ends: float) -> Releases:
        rows = {(row.package, row.version): row for row in releases.rows}
        asked = [one for row in releases.rows if (one := wanted(row, releases.date))]
        for start in range(0, len(asked), _CHUNK):
            if time.monotonic() > ends:
                break
            for one, outcome in self._outcomes(asked[start : start + _CHUNK]):
                key = (one.package, one.version)
                rows[key] = _with(rows[key], outcome, releases.date)
            self.say(
                f"{min(start + _CHUNK, len(asked))} of {len(asked)} {wanted.__name__.strip('_')}"
            )
        return replace(releases, rows=tuple(rows.values()))

    def _outcomes(self, asked: Sequence[Asked]) -> Iterator[tuple[Asked, Outcome]]:
        python = f"{self.probe.interpreter.minor}.0"
        sets = dict(find_sets(asked, self.probe, workers=self.workers * _RUNS_OF_UV))
        verdicts = dict(self._verdicts(sets.values(), python))
        for one, found in sets.items():
            outcome = _outcome(one, found, verdicts.get((found.wheels, found.absent)))
            yield one, replace(outcome, also=one.also)

    def _verdicts(
        self, sets: Iterable[WheelSet], python: str
    ) -> Iterator[tuple[object, Judgement]]:
        unknown = {}
        for found in sets:
            if found.wheels and not found.unclear:
                if judgement := kept_judgement(found, python):
                    yield (found.wheels, found.absent), judgement
                else:
                    unknown[found.wheels, found.absent] = found
        for found, judgement in judge_sets(list(unknown.values()), python, workers=self.workers):
            yield (found.wheels, found.absent), judgement


_Question = Callable[[Release, str], "Asked | None"]


def _today(row: Release, today: str) -> Asked | None:
    return None if row.today else Asked(row.package, row.version, today)


def _day(row: Release, today: str) -> Asked | None:
    return None if row.day else Asked(row.package, row.version, row.uploaded)


def _later(days: int) -> _Question:
    def later(row: Release, today: str) -> Asked | None:
        day = (date.fromisoformat(row.uploaded) + timedelta(days=days)).isoformat()
        tried = any(one.as_of == day for one in row.tried)
        if row.row or tried or row.day is None or row.today is None or day >= today:
            return None
        return Asked(row.package, row.version, day)

    return later


def _required_nearby(row: Release, matrix: Matrix) -> list[str]:
    """Return what each of the nearest rows of the matrix requires beside what is asked for."""
    day = date.fromisoformat(row.uploaded)
    asked = {row.package, *SCANNED[row.package]}
    stacks = [s for s in matrix.stacks if s.runtime in asked and not s.image]
    nearest = sorted(stacks, key=lambda stack: abs(stack.as_of - day))[:_NEAREST_ROWS]
    return [
        " ".join(
            str(one).replace(" ", "")
            for one in stack.requires
            if canonicalize_name(one.name) not in asked
        )
        for stack in nearest
    ]


def _with(row: Release, outcome: Outcome, today: str) -> Release:
    if not outcome.also:
        if outcome.as_of == today and row.today is None:
            row = replace(row, today=outcome)
        if outcome.as_of == row.uploaded:
            return replace(row, day=outcome)
        if outcome.as_of == today:
            return row
    tried = sorted([*row.tried, outcome], key=lambda one: (one.also, one.as_of))
    return replace(row, tried=tuple(tried))


def _outcome(asked: Asked, found: WheelSet, judgement: Judgement | None) -> Outcome:
    if found.conflict:
        return Outcome(asked.as_of, {}, "conflict", reason=found.conflict)
    if found.unclear or judgement is None:
        return Outcome(asked.as_of, found.versions, "unclear", reason=found.unclear)
    return Outcome(asked.as_of, found.versions, **vars(judgement))
