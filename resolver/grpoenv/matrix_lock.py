"""Resolve stacks with uv and write their hashed locks and their rows of the matrix.

A row starts as a recipe: ``id``, ``runtime``, ``summary``, ``requires``, ``as_of``, perhaps
``image``, ``keeps`` and additions, and targets of ``python`` and ``platform``. This module adds the
rest: the locks, their digests, the main versions, and the evidence that uv resolved them.

Targets are resolved side by side, and the same index gives the same bytes whatever the order in
which they end. All locks of a stack agree on the main versions: the first one states them.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import requires
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from grpoenv import __version__
from grpoenv._data import DataPaths
from grpoenv.errors import InputError, OperationError
from grpoenv.lock_recipe import Recipe, find_pins
from grpoenv.lockfile import Pin, render_lock
from grpoenv.machine import machine_text
from grpoenv.matrix import MAIN_PACKAGES, WINDOWS
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_render import read_rows, write_rows
from grpoenv.probe import read_freeze

__all__ = ["ALL_TARGETS", "Locked", "find_row", "lock_stacks"]

ALL_TARGETS = tuple(
    (python, platform)
    for platform in ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", WINDOWS)
    for python in ("3.10", "3.11", "3.12", "3.13")
)
"""Python and platform of every target that ``lock --all-targets`` tries."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Locked:
    """What locking came to: the locks written, and why others were not, by stack and target."""

    paths: tuple[Path, ...]
    refused: dict[str, OperationError] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """One lock to make: a target of a row."""

    row: Any
    target: Any
    added: bool

    @property
    def name(self) -> str:
        return f"{self.row['id']}, Python {self.target['python']}, {self.target['platform']}"


def lock_stacks(
    data: DataPaths, ids: Sequence[str], *, workers: int = 1, all_targets: bool = False
) -> Locked:
    """Resolve the stacks ``ids`` for all their targets, ``workers`` at a time.

    With ``all_targets`` each stack gets every one of ``ALL_TARGETS`` that uv finds a set for. The
    matrix is written anew with the digests, versions and evidence, in its canonical order; a stack
    one of whose own targets is refused stays as it was. Raises InputError for an unknown stack.
    """
    document = read_rows(data.matrix)
    rows = [find_row(document, id_, data) for id_ in ids]
    first = _solve([_Job(row, row["target"][0], False) for row in rows], {}, data, workers)
    main = {job.row["id"]: _main_versions(pins) for job, pins in first if isinstance(pins, list)}
    others = [job for row in rows if row["id"] in main for job in _others(row, all_targets)]
    solved = [*first, *_solve(others, main, data, workers)]
    refused = {job.name: pins for job, pins in solved if isinstance(pins, OperationError)}
    whole = {row["id"] for row in rows} - {
        job.row["id"] for job, pins in solved if isinstance(pins, OperationError) and not job.added
    }
    paths = [
        _write(job, pins, main[job.row["id"]], data)
        for job, pins in sorted(solved, key=lambda one: list(ids).index(one[0].row["id"]))
        if job.row["id"] in whole and isinstance(pins, list)
    ]
    if paths:
        write_rows(data.matrix, document)
    if not refused:  # a recipe without a lock is no row yet
        load_matrix(data.matrix)
    return Locked(tuple(paths), refused)


def find_row(document: Mapping[str, Any], id_: str, data: DataPaths) -> Any:
    """Return the row of the stack ``id_`` in a matrix of plain values; raises InputError."""
    for row in document.get("stack", []):
        if row.get("id") == id_:
            return row
    raise InputError(f"has no stack {id_!r}", path=data.matrix)


def _others(row: Any, all_targets: bool) -> list[_Job]:
    jobs = [_Job(row, target, False) for target in row["target"][1:]]
    have = {(str(target["python"]), str(target["platform"])) for target in row["target"]}
    for python, platform in ALL_TARGETS if all_targets else ():
        if (python, platform) not in have:
            jobs.append(_Job(row, {"python": python, "platform": platform}, True))
    return jobs


def _solve(
    jobs: Sequence[_Job],
    main: Mapping[str, Mapping[NormalizedName, Version]],
    data: DataPaths,
    workers: int,
) -> list[tuple[_Job, list[Pin] | OperationError]]:
    recipes = [_recipe(job, main.get(job.row["id"], {}), data) for job in jobs]
    return list(zip(jobs, _side_by_side(_attempt, recipes, workers), strict=True))


def _side_by_side(
    work: Callable[[Recipe], _T], recipes: Iterable[Recipe], workers: int
) -> list[_T]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, recipes))


def _attempt(recipe: Recipe) -> list[Pin] | OperationError:
    try:
        return find_pins(recipe)
    except OperationError as error:
        return error


def _recipe(job: _Job, agrees: Mapping[NormalizedName, Version], data: DataPaths) -> Recipe:
    row, target = job.row, job.target
    image = row.get("image", "")
    freeze = read_freeze(data.locks / "images" / f"{image}.txt") if image else {}
    additions = [addition["package"] for addition in row.get("addition", [])]
    return Recipe(
        requires=(*row["requires"], *additions, *_own_requirements()),
        as_of=str(row["as_of"]),
        python=str(target["python"]),
        platform=str(target["platform"]),
        image={name: Version(version.public) for name, version in freeze.items()},
        keeps=tuple(canonicalize_name(name) for name in row.get("keeps", [])),
        cpu_builds=row["runtime"] == "trl",
        agrees=agrees,
    )


def _own_requirements() -> list[str]:
    """Return what grpoenv needs: it is part of every environment that it installs."""
    parsed = [Requirement(text) for text in requires("grpoenv") or []]
    return [str(requirement) for requirement in parsed if not requirement.marker]


def _write(
    job: _Job, pins: Sequence[Pin], main: Mapping[NormalizedName, Version], data: DataPaths
) -> Path:
    row, target = job.row, job.target
    python, platform = str(target["python"]), str(target["platform"])
    name = f"{row['id']}/cp{python.replace('.', '')}-{platform}.txt"
    text = render_lock(pins, header=f"{row['id']} for CPython {python}, {platform}")
    path = data.locks / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if (target.get("lock"), target.get("sha256")) != (name, digest) or "evidence" not in target:
        _record_evidence(target, row["id"])
    _fill(target, name, digest, main, pins)
    row["versions"] = {str(name): str(version) for name, version in main.items()}
    if job.added:
        row["target"].append(target)
    return path


def _fill(
    target: Any,
    lock: str,
    digest: str,
    main: Mapping[NormalizedName, Version],
    pins: Sequence[Pin],
) -> None:
    target["lock"], target["sha256"] = lock, digest
    target.pop("lacks", None)
    if lacks := [str(name) for name in main if name not in {pin.name for pin in pins}]:
        target["lacks"] = lacks


def _main_versions(pins: Sequence[Pin]) -> dict[NormalizedName, Version]:
    found = {pin.name: pin.version for pin in pins}
    return {name: found[name] for name in MAIN_PACKAGES if name in found}


def _record_evidence(target: Any, id_: str) -> None:
    """Put the evidence of this resolution in the place of all that there was.

    What was imported or trained, or failed to, was another lock.
    """
    target.pop("failure", None)
    target["evidence"] = [
        {
            "level": "resolved",
            "date": datetime.datetime.now(datetime.timezone.utc).date(),
            "grpoenv": __version__,
            "machine": machine_text(),
            "command": f"grpoenv matrix lock {id_}",
        }
    ]
