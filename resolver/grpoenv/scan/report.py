"""The figures of the file of releases: what is broken today, what grpoenv gives, what rotted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv.matrix import Matrix
from grpoenv.releases import BROKEN, LINKED, SCANNED, VERDICTS, Outcome, Release, Releases

__all__ = ["given", "known_break", "releases_json", "report_lines"]

_WORDS = {
    LINKED: "nothing is missing, as far as sources tell",
    "import": "fail at an import that GRPO needs",
    "run": "import, and fail in a default GRPO run",
    "conflict": "have no set of versions at all",
    "unclear": "cannot be told",
}


def given(release: Release, matrix: Matrix) -> str:
    """Return what grpoenv gives for a release: a stack, a set of a day, or why there is none."""
    version = Version(release.version)
    leading = [release.package, *SCANNED[release.package]]
    for stack in matrix.stacks:
        if stack.runtime in leading and stack.versions.get(release.package) == version:
            level = max(target.level for target in stack.targets)
            return f"stack {stack.id} ({level})"
    if row := release.row:
        also = f" with {row.also}" if row.also else ""
        return f"its set as of {row.as_of}{also} (linked)"
    if release.unusable:
        return f"unusable because {release.unusable}"
    return "not known yet"


def known_break(outcome: Outcome, matrix: Matrix) -> str:
    """Return the id of a recorded break that holds for a set, empty where there is none."""
    versions = {NormalizedName(name): Version(text) for name, text in outcome.versions.items()}
    return next((row.id for row in matrix.breaks if row.applies(versions)), "")


def report_lines(releases: Releases, matrix: Matrix) -> Iterator[str]:
    """Yield the figures of each package."""
    yield f"Python {releases.python}, {releases.platform}; today is {releases.date}"
    for package, beside in SCANNED.items():
        rows = releases.of(package)
        if rows:
            yield ""
            line = " ".join([f"{package}==X", *beside])
            yield f"{len(rows)} releases of {package}, each pinned alone: {line}"
            yield from _counted("today", [row.today for row in rows])
            yield from _counted("as of its day", [row.day for row in rows])
            yield from _rotten(rows)
            stacks = [given(row, matrix).partition(" ")[0] for row in rows]
            count = Counter(stacks)
            yield (
                f"  grpoenv gives a locked stack for {count['stack']}, a set that links for "
                f"{count['its']}, a reason for {count['unusable']}; {count['not']} to be looked at"
            )


def _counted(when: str, outcomes: Iterable[Outcome | None]) -> Iterator[str]:
    found = [one for one in outcomes if one is not None]
    broken = sum(one.verdict in BROKEN for one in found)
    share = f" ({broken / len(found):.0%})" if found else ""
    yield f"  {when}: {broken} of {len(found)} broken{share}"
    counts = Counter(one.verdict for one in found)
    for verdict in VERDICTS:
        if counts[verdict]:
            yield f"    {counts[verdict]:4} {_WORDS[verdict]}"
    for (symbol, package), count in _symbols(found).most_common(5):
        yield f"         {count:4} x {symbol}, for want of {package}"


def _symbols(outcomes: Iterable[Outcome]) -> Counter[tuple[str, str]]:
    return Counter(
        (f"{one.exception}: {one.symbol}", one.culprit.rpartition(" with ")[2].partition(" ")[0])
        for one in outcomes
        if one.verdict in BROKEN
    )


def _rotten(rows: Iterable[Release]) -> Iterator[str]:
    rotten = [
        row
        for row in rows
        if row.day and row.today and row.day.verdict == LINKED and row.today.verdict in BROKEN
    ]
    yield f"  {len(rotten)} were whole on their day and are broken today"


def releases_json(releases: Releases, matrix: Matrix) -> dict[str, Any]:
    """Return the releases as JSON values, with what grpoenv gives for each."""
    rows = [
        {
            "package": row.package,
            "version": row.version,
            "uploaded": row.uploaded,
            "yanked": row.yanked,
            "day": row.day and vars(row.day),
            "today": row.today and vars(row.today),
            "given": given(row, matrix),
            "known_break": known_break(row.today, matrix) if row.today else "",
        }
        for row in releases.rows
    ]
    return {
        "python": releases.python,
        "platform": releases.platform,
        "date": releases.date,
        "releases": rows,
    }
