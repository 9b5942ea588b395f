"""What campaigns took, and what a larger one would take.

    python benchmarks/campaign.py condense JOURNAL… --json FILE   keep what each cell took
    python benchmarks/campaign.py plan FILE --cells 10000         time, cores, disk and traffic

A plan is arithmetic over measured cells: so many cells on cores that each run one at a time. Their
time is that of cells on a quiet machine (``quiet`` of the file), for the campaign's own cells shared
theirs with other work; ``speedup`` is what two workers did there beside one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpoenv._data import data_paths
from grpoenv.campaign.cell import CellResult
from grpoenv.lockfile import Lock, read_lock
from grpoenv.matrix_file import load_matrix

STEPS = ("venv", "install", "link", "import", "train", "losses")
GIB, TIB = 2**30, 2**40


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
    """Write what each cell of the journals took, and keep the rest of the file."""
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
    """Return the bytes of the wheels that a machine without a GPU takes, by the lock's digest."""
    data = data_paths()
    return {
        target.sha256: _wheels_bytes(read_lock(data.locks / target.lock))
        for stack in load_matrix(data.matrix).stacks
        for target in stack.targets
    }


def _wheels_bytes(lock: Lock) -> int:
    cpu = any(pin.cpu for pin in lock.pins.values())
    pins = [pin for pin in lock.pins.values() if not (cpu and pin.cuda_only)]
    return sum(pin.cpu.size_bytes if pin.cpu else pin.size_bytes for pin in pins)


def plan(options: argparse.Namespace) -> None:
    """Print what each step took, and the plan for so many cells of each runtime."""
    measured = json.loads(options.file.read_text())
    for runtime in ("trl", "unsloth"):
        cells = [cell for cell in measured["cells"] if _runtime(cell) == runtime]
        quiet = measured["quiet"][runtime]
        seconds = quiet["seconds"] / quiet["cells"]
        print(f"{runtime}: {len(cells)} cells; {3600 / seconds:.0f} an hour on one quiet core")
        print(f"  on the busy machine: {_of_steps(cells)}")
        print(f"  memory at the most {max(cell['memory_mib'] for cell in cells):,} MiB")
        _print_plan(options, cells, seconds, measured["speedup"])


def _print_plan(
    options: argparse.Namespace, cells: Sequence[Mapping[str, Any]], seconds: float, speedup: float
) -> None:
    """Print time and traffic; beyond one core, each core brings half of what two brought."""
    hours = options.cells * seconds / 3600
    wheels = statistics.fmean(c["wheels_bytes"] for c in cells if c["wheels_bytes"])
    print(f"  {options.cells:,} cells: {hours:,.0f} hours on one core, caches filled")
    for cores in options.cores:
        print(f"    on {cores} cores: {hours / (cores * speedup / 2):,.1f} hours")
    print(
        f"    {wheels / GIB:.1f} GiB of wheels a cell, {wheels * options.cells / TIB:,.1f} TiB uncached"
    )


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
