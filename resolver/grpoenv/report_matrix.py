"""The matrix as tables for people and as JSON values for programs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, TextIO

from packaging.utils import NormalizedName
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpoenv.matrix import WINDOWS, Break, Evidence, Level, Matrix, Observation, Stack, Target

__all__ = ["matrix_json", "print_matrix"]

_LEVEL_STYLES = {
    Level.RESOLVED: "dim",
    Level.LINKED: "cyan",
    Level.IMPORTED: "blue",
    Level.TRAINED: "green",
    Level.GPU: "bold green",
}
_COLUMNS = tuple(map(NormalizedName, ["unsloth", "unsloth-zoo", "trl", "torch", "transformers"]))
_UNBOUNDED = 10_000
"""A width that no row has: what is not a terminal gets whole rows, for grep."""
_USUAL_MACHINE = "x86_64"


def print_matrix(matrix: Matrix, stream: TextIO) -> None:
    """Print stacks and breaks as two tables; one stack alone is printed with all that is known.

    Levels have colours on a terminal, where NO_COLOR does not forbid them.
    """
    console = Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else _UNBOUNDED,
    )
    if len(matrix.stacks) == 1:
        _print(console, _details(matrix.stacks[0]))
    elif matrix.stacks:
        _print(console, _stack_table(matrix.stacks))
    if matrix.breaks:
        console.print()
        _print(console, _break_table(matrix.breaks))
    console.print()
    _print(console, f"{len(matrix.stacks)} stacks, {len(matrix.breaks)} breaks")


def _print(console: Console, what: Table | Text | str) -> None:
    """Print without the blanks that fill a table's cells up to the end of the line."""
    for line in console.render_lines(what, pad=False):
        text = Text.assemble(*[(part.text, part.style or "") for part in line])
        text.rstrip()
        console.print(text, soft_wrap=True)


def _stack_table(stacks: Iterable[Stack]) -> Table:
    rows = list(stacks)
    columns = [name for name in _COLUMNS if any(name in stack.versions for stack in rows)]
    table = _table("stack", "as of", "evidence", *columns)
    for stack in rows:
        versions = [str(stack.versions.get(name, "")) for name in columns]
        table.add_row(stack.id, str(stack.as_of), _levels(stack), *versions)
    return table


def _levels(stack: Stack) -> Text:
    """Return the pythons of each level, the strongest level first."""
    ordered = sorted(stack.targets, key=lambda target: -target.level)
    parts = list[Text]()
    for level, targets in groupby(ordered, key=lambda target: target.level):
        names = " and ".join(_target_names(targets))
        parts.append(Text.assemble((f"{level} {names}", _LEVEL_STYLES[level])))
    return Text("; ").join(parts)


def _target_names(targets: Iterable[Target]) -> list[str]:
    """Return the pythons of each platform, "aarch64 3.11, 3.12"; the usual platform goes unnamed."""
    platforms = dict[str, list[str]]()
    for target in targets:
        platforms.setdefault(_platform_text(target.platform), []).append(target.python)
    return [f"{name} {', '.join(pythons)}".strip() for name, pythons in platforms.items()]


def _platform_text(platform: str) -> str:
    """Return what distinguishes a target's platform, nothing for the usual Linux on x86_64."""
    if platform == WINDOWS:
        return "Windows"
    machine = platform.partition("-")[0]
    return "" if machine == _USUAL_MACHINE else machine


def _break_table(breaks: Iterable[Break]) -> Table:
    table = _table("break", "where", "what happens")
    for row in breaks:
        when = ", ".join(f"{name} {specifier}" for name, specifier in row.when.items())
        table.add_row(row.id, when, f"{row.summary}: {row.symptom}")
    return table


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _details(stack: Stack) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(Text("stack", "bold"), f"{stack.id}: {stack.summary}")
    table.add_row(Text("as of", "bold"), str(stack.as_of))
    if stack.image:
        table.add_row(Text("image", "bold"), f"{stack.image}, keeps {', '.join(stack.keeps)}")
    table.add_row(Text("requires", "bold"), ", ".join(map(str, stack.requires)))
    versions = ", ".join(f"{name} {version}" for name, version in stack.versions.items())
    table.add_row(Text("versions", "bold"), versions)
    for addition in stack.additions:
        table.add_row(Text("addition", "bold"), f"{addition.package}: {addition.reason}")
    for target in stack.targets:
        table.add_row(Text(f"python {target.python}", "bold"), f"{target.platform}, {target.lock}")
        for row in target.evidence:
            where = f"{row.date}, {row.machine}: {row.command}"
            note = f" ({row.note})" if row.note else ""
            table.add_row(Text(f"  {row.level}", _LEVEL_STYLES[row.level]), where + note)
        for failure in target.failures:
            what = f"{failure.date}, {failure.step}: {failure.error}"
            table.add_row(Text(f"  not {failure.level}", "red"), what)
    return table


def matrix_json(matrix: Matrix) -> dict[str, Any]:
    """Return the matrix as JSON values."""
    return {
        "stacks": [_stack_json(stack) for stack in matrix.stacks],
        "breaks": [_break_json(row) for row in matrix.breaks],
    }


def _stack_json(stack: Stack) -> dict[str, Any]:
    return {
        "id": stack.id,
        "runtime": stack.runtime,
        "summary": stack.summary,
        "as_of": str(stack.as_of),
        "image": stack.image or None,
        "keeps": list(stack.keeps),
        "requires": [str(requirement) for requirement in stack.requires],
        "versions": {name: str(version) for name, version in stack.versions.items()},
        "additions": [{"package": row.package, "reason": row.reason} for row in stack.additions],
        "targets": [_target_json(target) for target in stack.targets],
    }


def _target_json(target: Target) -> dict[str, Any]:
    return {
        "python": target.python,
        "platform": target.platform,
        "lock": target.lock,
        "level": str(target.level),
        "lacks": list(target.lacks),
        "evidence": [_evidence_json(row) for row in target.evidence],
        "failures": [
            {**_evidence_json(row), "step": row.step, "error": row.error} for row in target.failures
        ],
    }


def _evidence_json(row: Evidence) -> dict[str, Any]:
    """Return a run; null for what only a campaign measures."""
    return {
        "level": str(row.level),
        "grpoenv": row.grpoenv,
        **_observation_json(row),
        "seconds": row.seconds or None,
        "memory_mib": row.memory_mib or None,
        "log": row.log or None,
    }


def _observation_json(row: Observation) -> dict[str, str]:
    return {
        "date": str(row.date),
        "machine": row.machine,
        "command": row.command,
        "note": row.note,
    }


def _break_json(row: Break) -> dict[str, Any]:
    return {
        "id": row.id,
        "class": row.kind,
        "summary": row.summary,
        "symptom": row.symptom,
        "symbol": row.symbol,
        "when": {name: str(specifier) for name, specifier in row.when.items()},
        "reference": row.reference or None,
        "evidence": [_observation_json(observation) for observation in row.evidence],
    }
