"""Make the throw-away environment of a cell: a virtual environment, filled from the hashed lock.

Files are linked from uv's cache where that is on the same disk, so that an environment costs little
room. For a stack on an image, the index's builds of the packages that it keeps stand in for the
image's own, with the CUDA libraries that they declare.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import NormalizedName

from grpoenv.campaign.cell import CellTask
from grpoenv.errors import OperationError
from grpoenv.install import requirements_text
from grpoenv.lockfile import Lock, parse_lock
from grpoenv.machine import wheel_folders
from grpoenv.own_wheel import build_own_wheel
from grpoenv.resolve import Change
from grpoenv.target import interpreter_of
from grpoenv.uv import explain_failure, run_uv

__all__ = ["Made", "NotHere", "make_environment"]

_PATIENCE_S = 1800.0
_OF_THE_LOCK = re.compile(r"does not have (the hash that|what) the lock")
"""What uv's failures tell of a lock; all others are of this machine, its disk or its network."""
_TORCH = NormalizedName("torch")
_TRITON = NormalizedName("triton")


class NotHere(Exception):
    """What the cell needs is not on this machine, which tells nothing of the stack."""


@dataclass(frozen=True)
class Made:
    """An environment that was made, and how long each step took."""

    python: Path
    seconds: Mapping[str, float]


def make_environment(task: CellTask, venv: Path) -> Made:
    """Make the environment of ``task`` in the new folder ``venv``.

    Raises OperationError where the index does not have what the lock says, NotHere where anything
    else stands in the way.
    """
    start = time.monotonic()
    run = run_uv(["venv", "--quiet", "--no-project", "--python", task.python, venv])
    if run.status != 0:
        raise NotHere(f"there is no Python {task.python}: {run.messages}")
    python = interpreter_of(venv)
    lock = parse_lock(task.lock, path=Path("lock"))
    middle = time.monotonic()
    if task.kept:
        _stand_in(task, lock, python)
    _install(lock, python, venv.parent)
    end = time.monotonic()
    return Made(python, {"venv": round(middle - start, 1), "install": round(end - middle, 1)})


def _stand_in(task: CellTask, lock: Lock, python: Path) -> None:
    pins = [f"{name}=={lock.pins[NormalizedName(name)].version}" for name in task.kept]
    _uv_install(python, "--exclude-newer", task.as_of, *pins)


def _install(lock: Lock, python: Path, folder: Path) -> None:
    with_cpu = _cpu_wheel_is_here(lock)
    changes = [
        Change(pin, None, pin.cpu.version if pin.cpu and with_cpu else pin.version, pin.size_bytes)
        for pin in lock.pins.values()
        if not (with_cpu and pin.cuda_only) or pin.name == _TRITON  # its interpreter needs no GPU
    ]
    own = build_own_wheel(folder)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    requirements = folder / "requirements.txt"
    text = requirements_text(changes) + f"{own} --hash=sha256:{digest}\n"
    requirements.write_text(text, encoding="utf-8")
    links = [word for wheels in wheel_folders() for word in ("--find-links", str(wheels))]
    arguments = ["--no-deps", "--no-build", "--require-hashes", "-r", str(requirements)]
    _uv_install(python, *arguments, *(links if with_cpu else []))


def _cpu_wheel_is_here(lock: Lock) -> bool:
    """Tell whether the CPU build of torch that the lock allows lies in one of the user's folders."""
    torch = lock.pins.get(_TORCH)
    if torch is None or torch.cpu is None:
        return False
    wheels = [w for folder in wheel_folders() for w in folder.glob(f"torch-{torch.cpu.version}-*")]
    hashes = {f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in wheels}
    return torch.cpu.hash in hashes


def _uv_install(python: Path, *arguments: str) -> None:
    command = ["pip", "install", "--quiet", "--link-mode", "hardlink", "--python", str(python)]
    run = run_uv([*command, *arguments], timeout_s=_PATIENCE_S)
    if run.status == 0:
        return
    cause, _ = explain_failure(run.messages)
    told = f"{cause}: {run.messages}"
    raise OperationError(told) if _OF_THE_LOCK.search(cause) else NotHere(told)
