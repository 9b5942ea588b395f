"""The verdict on every pair of unsloth and unsloth_zoo: the file, and how it is read and written.

``benchmarks/pairs.py`` makes it, and the wheel brings it along. A classification (schema 2) is a JSON
object::

    schema, date, grpoenv   the version of this form, the day, and the version that made it
    unsloth, unsloth_zoo    a list of releases, oldest first: {version, needs, extras}; needs is the
                            range of the other package that a plain install declares ("" for any,
                            null where it is not named), extras the ranges that extras add
    undetermined            the names of which sources do not tell whether they are there; such a
                            name stops no pair
    verdicts                what stops an import: {exception, name, lacks, at}, where lacks is the
                            package that has no such name, and at the line of the other that takes it
    pairs                   for each release of unsloth, in that order, its verdicts with every
                            release of unsloth_zoo, as runs [verdict, how many]; verdict is an index
                            into verdicts, or -1 for a pair that imports as far as the two decide it
    run_verdicts            what stops a default GRPO run of a pair that imports: {exception, name,
                            lacks, at, why, certain}; where it is not certain, it depends on what the
                            two packages do not tell
    runs                    as pairs, with indices into run_verdicts; -1 for a pair that does not
                            import, or that runs as far as the two decide it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from grpoenv.errors import InputError

__all__ = [
    "SCHEMA",
    "Classification",
    "Release",
    "RunVerdict",
    "Verdict",
    "read_classification",
    "read_data",
    "write_classification",
]

SCHEMA = 1
"""The schema of the other data files about pairs."""

CLASSIFICATION_SCHEMA = 2


@dataclass(frozen=True)
class Release:
    """A release, and the ranges that it declares for the other package."""

    version: str
    needs: str | None = None
    extras: tuple[str, ...] = ()

    def admits(self, version: str, *, extras: bool = False) -> bool:
        """Tell whether an install with ``version`` of the other package meets the ranges."""
        ranges = [self.needs or "", *(self.extras if extras else ())]
        return all(_range(text).contains(version, prereleases=True) for text in ranges)


@cache
def _range(text: str) -> SpecifierSet:
    return SpecifierSet(text)


@dataclass(frozen=True)
class Verdict:
    """What first stops ``import unsloth`` in a pair."""

    exception: str
    name: str
    lacks: str
    at: str


@dataclass(frozen=True)
class RunVerdict(Verdict):
    """What first stops a default GRPO run of a pair that imports, or may where not ``certain``."""

    why: str
    certain: bool


@dataclass(frozen=True)
class Classification:
    """The verdict on every pair: ``rows[i][j]`` is that of ``unsloth[i]`` with ``zoos[j]``.

    ``runs[i][j]`` is that on the default run, None where nothing stops it or the pair does not
    import.
    """

    date: str
    grpoenv: str
    unsloth: Sequence[Release]
    zoos: Sequence[Release]
    undetermined: Sequence[str]
    rows: Sequence[Sequence[Verdict | None]]
    runs: Sequence[Sequence[RunVerdict | None]]

    def verdict(self, unsloth: str, zoo: str) -> Verdict | None:
        """Return what stops a pair, None if nothing does; raises KeyError for an unknown release."""
        return self.rows[_place(self.unsloth, unsloth)][_place(self.zoos, zoo)]

    def run(self, unsloth: str, zoo: str) -> RunVerdict | None:
        """Return what stops the default run of a pair that imports, None if nothing does."""
        return self.runs[_place(self.unsloth, unsloth)][_place(self.zoos, zoo)]


AnyVerdict = TypeVar("AnyVerdict", bound=Verdict)


def _place(releases: Sequence[Release], version: str) -> int:
    for index, release in enumerate(releases):
        if release.version == version:
            return index
    raise KeyError(version)


def write_classification(found: Classification, path: Path) -> None:
    """Write the file, one release a line."""
    verdicts, pairs = _indexed(found.rows)
    run_verdicts, runs = _indexed(found.runs)
    lines = {
        "unsloth": [asdict(release) for release in found.unsloth],
        "unsloth_zoo": [asdict(release) for release in found.zoos],
        "undetermined": found.undetermined,
        "verdicts": verdicts,
        "pairs": pairs,
        "run_verdicts": run_verdicts,
        "runs": runs,
    }
    head = {"schema": CLASSIFICATION_SCHEMA, "date": found.date, "grpoenv": found.grpoenv}
    parts = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    parts += [f'"{key}": [\n{_rows(value)}\n]' for key, value in lines.items()]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _indexed(
    rows: Sequence[Sequence[Verdict | None]],
) -> tuple[list[dict[str, Any]], list[list[list[int]]]]:
    """Return the verdicts, and each row as runs of indices into them."""
    verdicts = list(dict.fromkeys(v for row in rows for v in row if v is not None))
    index: dict[Verdict | None, int] = {verdict: n for n, verdict in enumerate(verdicts)}
    index[None] = -1
    runs = [[[index[v], len(list(run))] for v, run in groupby(row)] for row in rows]
    return [asdict(verdict) for verdict in verdicts], runs


def _rows(values: Sequence[object]) -> str:
    return ",\n".join(json.dumps(value, separators=(",", ":")) for value in values)


def read_classification(path: Path) -> Classification:
    """Read the file; raises InputError where it is not of this schema or is no classification."""
    data = read_data(path, CLASSIFICATION_SCHEMA)
    try:
        return _classification(data)
    except (KeyError, IndexError, TypeError, ValueError, InvalidSpecifier) as error:
        raise InputError(f"no classification of pairs: {error!r}", path=path) from error


def _classification(data: dict[str, Any]) -> Classification:
    verdicts = [Verdict(**row) for row in data["verdicts"]]
    zoos = _releases(data["unsloth_zoo"])
    unsloth = _releases(data["unsloth"])
    rows = [_row(runs, verdicts, len(zoos)) for runs in data["pairs"]]
    run_verdicts = [RunVerdict(**row) for row in data["run_verdicts"]]
    runs = [_row(runs, run_verdicts, len(zoos)) for runs in data["runs"]]
    if {len(rows), len(runs)} != {len(unsloth)}:
        raise ValueError(f"{len(unsloth)} releases and {len(rows)} rows of pairs")
    return Classification(
        date=data["date"],
        grpoenv=data["grpoenv"],
        unsloth=unsloth,
        zoos=zoos,
        undetermined=data["undetermined"],
        rows=rows,
        runs=runs,
    )


def _row(
    runs: list[list[int]], verdicts: Sequence[AnyVerdict], length: int
) -> list[AnyVerdict | None]:
    """Unroll the runs of one row, which have to make up ``length`` pairs."""
    if sum(count for _, count in runs) != length or any(count < 1 for _, count in runs):
        raise ValueError(f"a row of pairs does not have the length {length}")
    return [
        None if number < 0 else verdicts[number] for number, count in runs for _ in range(count)
    ]


def _releases(rows: Sequence[dict[str, Any]]) -> list[Release]:
    return [Release(row["version"], row["needs"], tuple(row["extras"])) for row in rows]


def read_data(path: Path, expected: int = SCHEMA) -> dict[str, Any]:
    """Return the content of a data file; raises InputError where it is not of this schema."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", path=path) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != expected:
        raise InputError(f"has the schema {schema!r}; this reads {expected}", path=path)
    return dict(data)
