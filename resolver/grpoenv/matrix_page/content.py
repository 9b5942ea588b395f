"""What the page of the matrix shows, as JSON values.

::

    grpoenv    the version that made the page
    levels     the levels of evidence, in rising order
    stacks     the rows of the matrix, as "matrix show --json" prints them
    breaks     the same
    timelines  for each main package its known releases, oldest first, and which of them are part of
               a break: {package, releases, history, breaks}; history has {uploaded, yanked, day,
               tried, today} of each (grpoenv.releases), null where it was not scanned, and breaks
               [place in breaks, runs of 0 or 1]
    pairs      the verdict on every pair of unsloth and unsloth_zoo, null where it is not at hand:
               date      the day on which the releases were read
               unsloth   {version, needs, extras} of each release, oldest first; as zoos
               verdicts  what stops the import of a pair: {exception, name, lacks, at}; with {why,
                         certain} what stops, or may stop, the default GRPO run of one that imports
               rows      for each unsloth its verdicts with every zoo, as runs [verdict, how many];
                         -1 where nothing stops the pair
               admitted  for each unsloth, which zoos the declared ranges admit, as runs
                         [0 or 1, how many]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from packaging.utils import NormalizedName
from packaging.version import Version

from grpoenv import __version__
from grpoenv.matrix import MAIN_PACKAGES, Level, Matrix
from grpoenv.pair_verdicts import Classification
from grpoenv.pair_verdicts import Release as PairedRelease
from grpoenv.releases import Release
from grpoenv.report_matrix import matrix_json

__all__ = ["page_content"]


def page_content(
    matrix: Matrix, pairs: Classification | None, scanned: Sequence[Release] = ()
) -> dict[str, Any]:
    """Return all that the page shows."""
    lines = [_timeline(name, matrix, pairs, scanned) for name in MAIN_PACKAGES]
    return {
        "grpoenv": __version__,
        "levels": [str(level) for level in Level],
        **matrix_json(matrix),
        "timelines": [line for line in lines if line["releases"]],
        "pairs": pairs and _pairs(pairs),
    }


def _timeline(
    name: NormalizedName,
    matrix: Matrix,
    pairs: Classification | None,
    scanned: Sequence[Release],
) -> dict[str, Any]:
    history = {Version(row.version): _history(row) for row in scanned if row.package == name}
    known = {stack.versions[name] for stack in matrix.stacks if name in stack.versions}
    known |= set(history)
    if pairs is not None:
        classified = {"unsloth": pairs.unsloth, "unsloth-zoo": pairs.zoos}.get(name, ())
        known |= {Version(release.version) for release in classified}
    ordered = sorted(known)
    breaks = [
        [place, _runs([int(row.when[name].contains(one, prereleases=True)) for one in ordered])]
        for place, row in enumerate(matrix.breaks)
        if name in row.when
    ]
    return {
        "package": name,
        "releases": [str(one) for one in ordered],
        "history": [history.get(one) for one in ordered],
        "breaks": breaks,
    }


def _history(row: Release) -> dict[str, Any]:
    return {
        "uploaded": row.uploaded,
        "yanked": row.yanked,
        "day": row.day and asdict(row.day),
        "tried": [asdict(outcome) for outcome in row.tried],
        "today": row.today and asdict(row.today),
    }


def _pairs(pairs: Classification) -> dict[str, Any]:
    stops = [
        [at_import or in_run for at_import, in_run in zip(row, runs, strict=True)]
        for row, runs in zip(pairs.rows, pairs.runs, strict=True)
    ]
    verdicts = list(dict.fromkeys(one for row in stops for one in row if one is not None))
    index = {verdict: number for number, verdict in enumerate(verdicts)}
    rows = [[-1 if one is None else index[one] for one in row] for row in stops]
    return {
        "date": pairs.date,
        "unsloth": [asdict(release) for release in pairs.unsloth],
        "zoos": [asdict(release) for release in pairs.zoos],
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "rows": [_runs(row) for row in rows],
        "admitted": [_runs(_admitted(release, pairs.zoos)) for release in pairs.unsloth],
    }


def _admitted(unsloth: PairedRelease, zoos: Sequence[PairedRelease]) -> list[int]:
    return [int(unsloth.admits(zoo.version) and zoo.admits(unsloth.version)) for zoo in zoos]


def _runs(row: Iterable[int]) -> list[list[int]]:
    return [[value, len(list(run))] for value, run in groupby(row)]
