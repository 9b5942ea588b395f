"""Kill installs of real packages at random moments; what is left is the old set or the new one.

uv alone leaves half of such kills with packages gone and a third with files missing after a second
run that reports success. Run with ``-m real``; prints how the kills fell.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name, parse_wheel_filename

from depot import Depot
from grpoenv import transaction
from grpoenv.install import install
from grpoenv.lockfile import Pin
from grpoenv.machine import probe_machine
from grpoenv.progress import SilentReporter
from grpoenv.resolve import Wishes
from grpoenv.verify import verify

pytestmark = pytest.mark.real

OLD = ("numpy==1.26.4", "pandas==2.2.2", "scipy==1.13.1", "sympy==1.13.1", "pillow==11.1.0")
NEW = ("numpy==2.0.2", "pandas==2.2.3", "scipy==1.14.1", "sympy==1.13.3", "pillow==11.2.1")
KILLS = 60


def real_pins(depot: Depot, *requirements: str) -> list[Pin]:
    """Download the wheels and return their pins; uv in the test sees nothing but this folder."""
    before = set(depot.wheels.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(depot.wheels), *requirements]
    subprocess.run(command, check=True)
    pins = []
    for path in set(depot.wheels.iterdir()) - before:
        name, version, _, _ = parse_wheel_filename(path.name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size = path.stat().st_size
        pins.append(Pin(canonicalize_name(name), version, (f"sha256:{digest}",), size))
    return pins


def picture(site: Path) -> str:
    """Return one digest of every file, Python's caches and grpoenv's own folder left out."""
    digest = hashlib.sha256()
    for folder, subfolders, files in os.walk(site):
        subfolders[:] = sorted(set(subfolders) - {"__pycache__", ".grpoenv"})
        for name in sorted(files):
            path = Path(folder, name)
            digest.update(f"{path}\0{path.stat().st_size}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def test_kills_at_random_moments_leave_the_old_set_or_the_new_one(
    depot: Depot, venv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depot.stack("old", [depot.wheel("trl", "1.0"), *real_pins(depot, *OLD)])
    depot.stack("new", [depot.wheel("trl", "2.0"), *real_pins(depot, *NEW)])
    matrix, data, reporter = depot.matrix(), depot.data, SilentReporter()
    pictures, took = {}, 0.0
    for stack in ("new", "old", "new", "old"):  # twice, so that the cache is warm when timed
        started = time.monotonic()
        install(venv, matrix, data, Wishes(stack=stack), reporter)
        took = time.monotonic() - started
        interpreter = probe_machine(venv).interpreter
        pictures[picture(Path(interpreter.purelib))] = stack
    random_source, outcomes, now = random.Random(20261123), Counter[str](), "old"
    for _ in range(KILLS):
        other = "new" if now == "old" else "old"
        command = [sys.executable, "-m", "grpoenv", "install", "--python", str(venv)]
        command += ["--matrix", str(data.matrix), "--stack", other, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(random_source.uniform(0.3, 1.0) * (took + 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        open_journal = transaction.is_interrupted(interpreter)
        sound = not verify(probe_machine(venv), matrix, data).problems
        state = pictures.get(picture(Path(interpreter.purelib)), "in between")
        assert not (state == "in between" and sound), "a half-done change was called sound"
        with transaction.locked(interpreter):
            undone = transaction.recover(interpreter)
        now = pictures.get(picture(Path(interpreter.purelib)), "in between")
        assert now in ("old", "new")
        assert bool(undone) == open_journal
        outcomes[f"{state}, {'undone' if undone else 'nothing to undo'}"] += 1
    with capsys.disabled():
        print(f"\n{KILLS} kills within {took + 0.5:.1f} s: {dict(outcomes)}")
