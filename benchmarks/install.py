"""Time ``grpoenv install`` beside a bare ``uv pip sync`` of the same lock, in pairs.

Each run makes a new virtual environment with a new, empty cache of uv's (``--warm``: a cache that
one uncounted run has filled). grpoenv's run includes the plan, its own wheel, the walk over every
RECORD and the verification. Prints each pair, the median ratio and the spread, and writes JSON::

    python benchmarks/install.py --stack trl --pairs 5 --json benchmarks/results/install.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from grpoenv import __version__
from grpoenv._data import data_paths
from grpoenv.install import requirements_text
from grpoenv.machine import probe_machine, wheel_folders
from grpoenv.matrix_file import load_matrix
from grpoenv.planning import make_plan
from grpoenv.resolve import TorchSource, Wishes
from grpoenv.target import interpreter_of
from grpoenv.uv import find_uv, run_uv, uv_environment


def main() -> None:
    """Run the pairs and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stack", default="trl")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.stack, options.pairs, options.warm, Path(folder))
    print(json.dumps({key: result[key] for key in result if key != "pairs"}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(stack: str, pairs: int, warm: bool, folder: Path) -> dict[str, object]:
    """Return the wall times in seconds of each pair and what follows from them."""
    matrix, data = load_matrix(data_paths().matrix), data_paths()
    empty = replace(probe_machine(), packages={})
    plan = make_plan(empty, matrix, data, Wishes(stack=stack))
    lock = folder / "requirements.txt"
    lock.write_text(requirements_text(plan.changes))
    links = wheel_folders() if plan.torch is TorchSource.CPU_FOLDER else []
    grpoenv = [sys.executable, "-m", "grpoenv", "install", "--stack", stack, "--json", "--venv"]
    rows = []
    for number in range(-1 if warm else 0, pairs):
        ours = timed(lambda venv: [[*grpoenv, str(venv)]], folder, warm)
        bare = timed(lambda venv: bare_commands(venv, lock, links), folder, warm)
        if number >= 0:
            rows.append({"grpoenv_s": ours, "uv_s": bare, "ratio": ours / bare})
            print(f"grpoenv {ours:6.2f} s   uv {bare:6.2f} s   ratio {ours / bare:.3f}")
    ratios = [row["ratio"] for row in rows]
    return {
        "stack": plan.stack.id,
        "cache": "warm" if warm else "cold",
        "packages": len(plan.changes),
        "download_bytes": plan.download_bytes,
        "grpoenv": __version__,
        "uv": run_uv(["--version"]).output.strip(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "median_ratio": statistics.median(ratios),
        "min_ratio": min(ratios),
        "max_ratio": max(ratios),
        "median_grpoenv_s": statistics.median(row["grpoenv_s"] for row in rows),
        "median_uv_s": statistics.median(row["uv_s"] for row in rows),
        "pairs": rows,
    }


def bare_commands(venv: Path, lock: Path, links: list[Path]) -> list[list[str]]:
    """Return what a user of uv would run for the same result."""
    uv = str(find_uv())
    sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(interpreter_of(venv))]
    for folder in links:
        sync += ["--find-links", str(folder)]
    return [[uv, "venv", "--quiet", "--python", sys.executable, str(venv)], [*sync, str(lock)]]


def timed(commands: object, folder: Path, warm: bool) -> float:
    """Run the commands for a new environment and return the wall time in seconds."""
    venv, cache = folder / "venv", folder / "cache"
    for stale in (venv, *([] if warm else [cache])):
        shutil.rmtree(stale, ignore_errors=True)
    environment = {**uv_environment(), "UV_CACHE_DIR": str(cache)}
    started = time.perf_counter()
    for command in commands(venv):  # type: ignore[operator]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
