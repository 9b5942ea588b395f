"""What campaigns took, and what a larger one would take.

    python benchmarks/campaign.py condense JOURNAL… --json FILE   keep what each cell took
    python benchmarks/campaign.py plan FILE --cells 10000         time, cores, disk and traffic

A plan is arithmetic over measured cells: so many cells in the same mix, on cores that each run one
cell at a time, at the throughput that two workers had beside one (``scaling`` of the file).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grpoenv._data import data_paths
from grpoenv.campaign.cell import CellResult
from grpoenv.lockfile import read_lock
from grpoenv.matrix_file import load_matrix

STEPS = ("venv", "install", "link", "import", "train", "losses")
GIB = 2**30


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(required=True)
    condensing = verbs.add_parser("condense")
    condensing.add_argument("journals", nargs="+", type=Path)
    condensing.add_argument("--json", type=Path, required=True)
    condensing.set_defaults(run=condense)
    planning = verbs.add_parser("plan")
    planning.add_argument("file", type=Path)
    planning.add_argument("--cells", type=int, default=10_000)
    planning.add_argument("--cores", type=int, nargs="+", default=[2, 16, 256])
    planning.set_defaults(run=plan)
    options = parser.parse_args()
    options.run(options)


def condense(options: argparse.Namespace) -> None:
    """Write what each cell of the journals took, and keep the scaling that the file has."""
    sizes = _sizes()
    cells = [
        {
            "stack": result.stack,
            "level": str(result.level),
            "failed": result.failures[-1].step if result.failures else None,
            "seconds": dict(result.seconds),
            "memory_mib": result.memory_mib,
            "wheels_bytes": sizes.get(result.sha256, 0),
        }
        for journal in options.journals
        for result in _results(journal)
    ]
    kept = json.loads(options.json.read_text()) if options.json.is_file() else {}
    kept["cells"] = sorted(cells, key=lambda cell: cell["stack"])
    options.json.write_text(json.dumps(kept, indent=1) + "\n")


def _results(journal: Path) -> Iterable[CellResult]:
    for line in journal.read_text("utf-8").splitlines():
        data = json.loads(line)
        data.pop("schema")
        yield CellResult.from_json(data)


def _sizes() -> dict[str, int]:
    """Return the bytes of all wheels of each lock of the matrix, by the lock's digest."""
    data = data_paths()
    return {
        target.sha256: sum(p.size_bytes for p in read_lock(data.locks / target.lock).pins.values())
        for stack in load_matrix(data.matrix).stacks
        for target in stack.targets
    }


def plan(options: argparse.Namespace) -> None:
    """Print what each step takes, and the plan for so many cells."""
    measured = json.loads(options.file.read_text())
    for runtime in ("trl", "unsloth"):
        cells = [cell for cell in measured["cells"] if _runtime(cell) == runtime]
        if cells:
            print(f"{runtime}: {len(cells)} cells, {_of_steps(cells)}")
            print(f"  memory at the most {max(cell['memory_mib'] for cell in cells):,} MiB")
    scaling = measured["scaling"]
    speedup = scaling["seconds"]["1"] / scaling["seconds"]["2"]
    per_hour = 3600 * scaling["cells"] / scaling["seconds"]["1"]
    print(f"scaling: {per_hour:.0f} cells an hour on one core, {speedup:.2f} times that on two")
    mean = statistics.fmean(sum(cell["seconds"].values()) for cell in measured["cells"])
    core_hours = options.cells * mean / 3600 * 2 / speedup
    traffic = statistics.fmean(cell["wheels_bytes"] for cell in measured["cells"]) * options.cells
    print(f"{options.cells:,} cells at {mean:.0f} s each: {core_hours:,.0f} core hours")
    for cores in options.cores:
        print(f"  on {cores} cores: {core_hours / cores:,.1f} hours")
    print(f"  traffic without any cache: {traffic / 2**40:,.1f} TiB of wheels")


def _runtime(cell: Mapping[str, Any]) -> str:
    return "trl" if cell["stack"].startswith("trl-") else "unsloth"


def _of_steps(cells: Iterable[Mapping[str, Any]]) -> str:
    rows = [cell["seconds"] for cell in cells]
    medians = {
        step: statistics.median(row[step] for row in rows if step in row)
        for step in STEPS
        if any(step in row for row in rows)
    }
    total = statistics.median(sum(row.values()) for row in rows)
    parts = ", ".join(f"{step} {seconds:.1f}" for step, seconds in medians.items())
    return f"median {total:.0f} s ({parts})"


if __name__ == "__main__":
    main()
