"""Write the results of a campaign into the matrix, or hold them against what it has.

Writing the same results twice changes nothing the second time. A target's evidence of a level is
replaced by the newer run's, and falls where that run failed to reach the level; what was resolved
stays, for it is the lock's.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grpoenv import __version__
from grpoenv._data import DataPaths
from grpoenv.campaign.cell import CellFailure, CellResult
from grpoenv.matrix import Level, Matrix, Target
from grpoenv.matrix_file import load_matrix
from grpoenv.matrix_lock import find_row
from grpoenv.matrix_render import read_rows, write_rows

__all__ = ["differences", "record"]


def record(data: DataPaths, results: Sequence[CellResult]) -> None:
    """Write ``results`` into the matrix; those of another lock than its own are left out."""
    rows = read_rows(data.matrix)
    for result in results:
        stack = find_row(rows, result.stack, data)
        target = _target(stack, result)
        if target is None or (result.blocked and not result.notes):
            continue
        _record_target(target, result)
        _record_additions(stack, result)
        for failure in result.failures:
            _record_break(rows, failure, result)
    write_rows(data.matrix, rows)
    load_matrix(data.matrix)


def differences(matrix: Matrix, results: Sequence[CellResult]) -> Iterator[str]:
    """Yield where a run and the evidence of the ``matrix`` disagree: what did not reproduce.

    A level that the matrix does not claim and the run reached is no difference.
    """
    for result in results:
        for target in _targets(matrix, result):
            where = f"{result.stack}, Python {result.python}"
            if target.sha256 != result.sha256:
                yield f"{where}: the lock is another one than that of the run"
            elif target.level > result.level and not result.blocked:
                reason = result.failures[-1].error if result.failures else "no reason is known"
                yield f"{where}: {target.level} in the matrix, {result.level} now: {reason}"
            yield from _other_failures(where, target, result)


def _targets(matrix: Matrix, result: CellResult) -> Iterator[Target]:
    for stack in matrix.stacks:
        for target in stack.targets:
            names = (stack.id, target.python, target.platform)
            if names == (result.stack, result.python, result.platform):
                yield target


def _other_failures(where: str, target: Target, result: CellResult) -> Iterator[str]:
    now = {failure.level: failure.error for failure in result.failures}
    for failure in target.failures:
        if failure.level not in now:
            yield f"{where}: fails to be {failure.level} in the matrix, and does not fail now"
        elif now[failure.level] != failure.error:
            yield f"{where}: {failure.error} in the matrix, {now[failure.level]} now"


def _target(stack: Mapping[str, Any], result: CellResult) -> dict[str, Any] | None:
    wanted = (result.python, result.platform, result.sha256)
    for target in stack["target"]:
        if (target["python"], target["platform"], target["sha256"]) == wanted:
            found: dict[str, Any] = target
            return found
    return None


def _record_target(target: dict[str, Any], result: CellResult) -> None:
    resolved = [row for row in target["evidence"] if row["level"] == str(Level.RESOLVED)]
    raised = [_evidence(result, level) for level in sorted(result.notes)]
    target["evidence"] = [*resolved, *raised]
    target.pop("failure", None)
    if result.failures:
        failures = sorted(result.failures, key=lambda failure: failure.level)
        target["failure"] = [_failure(result, failure) for failure in failures]


def _evidence(result: CellResult, level: Level) -> dict[str, Any]:
    return {"level": str(level), **_run_fields(result), "note": result.notes[level]}


def _failure(result: CellResult, failure: CellFailure) -> dict[str, Any]:
    said = {"level": str(failure.level), "step": failure.step, "error": failure.error}
    return {**said, **_run_fields(result)}


def _run_fields(result: CellResult) -> dict[str, Any]:
    return {
        **_seen_fields(result),
        "grpoenv": __version__,
        "seconds": round(sum(result.seconds.values())),
        "memory_mib": result.memory_mib,
        "log": result.log,
    }


def _seen_fields(result: CellResult) -> dict[str, Any]:
    return {
        "date": datetime.date.fromisoformat(result.date),
        "machine": result.machine,
        "command": f"grpoenv matrix test {result.stack}",
    }


def _record_additions(stack: dict[str, Any], result: CellResult) -> None:
    for need, reason in result.needs.items():
        rows = stack.setdefault("addition", [])
        if need not in [row["package"] for row in rows]:
            rows.append({"package": need, "reason": reason})


def _record_break(rows: dict[str, Any], failure: CellFailure, result: CellResult) -> None:
    """Add what ``failure`` says of two packages to the breaks, unless it is there."""
    if not failure.provider or failure.level is not Level.IMPORTED:
        return
    when = dict(one.split("==") for one in (failure.taker, failure.provider))
    id_ = "-".join(f"{name}-{version}" for name, version in when.items())
    breaks = rows.setdefault("break", [])
    if id_ in [row["id"] for row in breaks]:
        return
    missing = failure.error.startswith("ModuleNotFoundError")
    breaks.append(
        {
            "id": id_,
            "class": "missing-module" if missing else "missing-name",
            "summary": f"{failure.taker} takes what {failure.provider} does not have",
            "symptom": failure.error,
            "symbol": failure.symbol,
            "when": {name: f"=={version}" for name, version in when.items()},
            "evidence": [_seen_fields(result)],
        }
    )
