"""Time ``grpoenv verify`` and ``check`` beside what else looks at an environment.

    python benchmarks/verify.py ENVIRONMENT [--runs 5] [--only NAME …] [--json FILE]

ENVIRONMENT is a virtual environment of an unsloth stack (``grpoenv install --venv ENVIRONMENT
--stack unsloth``). Each command runs in a fresh process. *Cold* is with an empty cache of grpoenv's
own, warm with what the run before left there; the files of the environment and uv's cache are as the
machine has them. With --json the results are added to those that FILE has.
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
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from grpoenv import __version__

PAIR = ("unsloth==2025.3.15", "unsloth_zoo==2025.3.9", "--no-deps")


@dataclass(frozen=True)
class Contender:
    """One command; ``cold`` empties grpoenv's cache before each run, ``codes`` are its good ends."""

    name: str
    command: Sequence[str]
    cold: bool = False
    codes: tuple[int, ...] = (0,)


def contenders(python: Path) -> list[Contender]:
    """Return what is timed on the environment of ``python``."""
    grpoenv = (sys.executable, "-m", "grpoenv")
    verify = (*grpoenv, "verify", "--python", str(python))
    pair, whole = (*grpoenv, "check", *PAIR), (*grpoenv, "check", "unsloth")
    # A pair that breaks and today's set have problems to report: exit 1 is an answer as well.
    answers = (0, 1, 3)
    return [
        Contender("grpoenv verify, cold", verify, cold=True),
        Contender("grpoenv verify, warm", verify),
        Contender("uv pip check", ("uv", "pip", "check", "--python", str(python)), codes=(0, 1)),
        Contender(
            "pip check",
            (sys.executable, "-m", "pip", "--python", str(python), "check"),
            codes=(0, 1),
        ),
        Contender("import unsloth", (str(python), "-c", "import unsloth")),
        Contender("grpoenv check of a pair, cold", pair, cold=True, codes=answers),
        Contender("grpoenv check of a pair, warm", pair, codes=answers),
        Contender("grpoenv check of a set, cold", whole, cold=True, codes=answers),
        Contender("grpoenv check of a set, warm", whole, codes=answers),
    ]


def main() -> None:
    """Run the contenders and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("environment", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=(), help="the beginnings of names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    python = options.environment / "bin" / "python"
    chosen = [
        contender
        for contender in contenders(python)
        if not options.only or contender.name.startswith(tuple(options.only))
    ]
    print(machine())
    for contender in chosen:
        row = measured(contender, options.runs)
        print(line(contender.name, row), flush=True)
        if options.json:
            save(options.json, contender.name, row)


def measured(contender: Contender, runs: int) -> dict[str, list[float]]:
    """Return the seconds of each run: by the clock, and of processor."""
    with tempfile.TemporaryDirectory(prefix="grpoenv-") as folder:
        cache = Path(folder) / "cache"
        if not contender.cold:
            seconds(contender, cache)
        found = []
        for _ in range(runs):
            if contender.cold:
                shutil.rmtree(cache, ignore_errors=True)
            found.append(seconds(contender, cache))
    return {"wall_s": [wall for wall, _ in found], "processor_s": [used for _, used in found]}


def seconds(contender: Contender, cache: Path) -> tuple[float, float]:
    """Run a command once, with grpoenv's cache in ``cache``; raises where it ends otherwise."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
        "UNSLOTH_ALLOW_CPU": "1",
        "GRPOENV_NO_UPDATE_CHECK": "1",
    }
    # What an install compiles once is not to be compiled in each run.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, start = os.times(), time.monotonic()
    done = subprocess.run(
        contender.command, check=False, env=environment, capture_output=True, text=True
    )
    wall, after = time.monotonic() - start, os.times()
    # pip check ends with 1 where it finds something, and so does Python where it has no pip.
    if done.returncode not in contender.codes or "No module named pip" in done.stderr:
        raise SystemExit(f"{contender.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    used = after.children_user + after.children_system
    return round(wall, 3), round(used - before.children_user - before.children_system, 3)


def line(name: str, row: dict[str, list[float]]) -> str:
    """Return one row of the table: the median and the spread."""
    wall, used = row["wall_s"], row["processor_s"]
    return (
        f"{name:32} {statistics.median(wall):7.2f} s  ({min(wall):.2f} to {max(wall):.2f}, "
        f"{len(wall)} runs; {statistics.median(used):.2f} s of processor)"
    )


def machine() -> str:
    """Return what the figures were measured on."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, grpoenv {__version__}, load {load}"
    )


def save(path: Path, name: str, row: dict[str, list[float]]) -> None:
    """Add a row to those that the file has."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {"date": str(date.today()), "machine": machine(), **row}
    path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
