"""Run one cell: an environment from the lock, and its level raised as far as this machine can.

The environment and all that its processes write lie in one folder, which is gone in the end. The
processes have no hub, no package index and none of the user's settings, and each is held to the
limits of the task. A step that fails ends the cell, but for linking: what an import says of a stack
weighs more than what its sources say.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import Version

from grpoenv import _tiny_grpo
from grpoenv.campaign import _entry_points, _link, _unsloth_grpo
from grpoenv.campaign.blame import blame, undeclared
from grpoenv.campaign.cell import CellFailure, CellResult, CellTask
from grpoenv.campaign.environment import NotHere, make_environment
from grpoenv.campaign.limits import LimitedRun, run_limited
from grpoenv.campaign.step_variables import step_variables
from grpoenv.checks.numerics import KL_LIMIT, NO_GPU
from grpoenv.errors import OperationError
from grpoenv.gpu import Answer, Gpu, find_gpu
from grpoenv.machine import machine_text
from grpoenv.matrix import Level

__all__ = ["run_cell"]

_ENTRY_POINTS = {
    "trl": ("trl:GRPOConfig", "trl:GRPOTrainer"),
    "unsloth": ("unsloth", "unsloth:FastLanguageModel", "trl:GRPOConfig", "trl:GRPOTrainer"),
}
_CPU_SWITCH_SINCE = Version("2026.8.16")
"""The unsloth from which on UNSLOTH_ALLOW_CPU lets it be imported without a GPU.

Its zoo knows the switch from 2026.6.1 on, but unsloth went on to ask torch for the capability.
"""
_ERROR_LENGTH = 500
_SWITCH_NOTE = "with UNSLOTH_ALLOW_CPU=1, which leaves trl's trainers as they are"
_MADE_UP_NOTE = "with an A100 made up for the import, as unsloth demands a GPU"
_STRONG_OPTIONS = json.dumps(_tiny_grpo.STRONG)
_UNCOMPILED = {"UNSLOTH_COMPILE_DISABLE": "1", "TORCHDYNAMO_DISABLE": "1"}
_HALF_KL_LIMIT = 1e-3
"""For steps in bf16, whose rounding alone was seen to make up to 2e-4; the other is for float32."""
_OF_NO_GPU = re.compile(rf"{NO_GPU}|NVIDIA driver|compiled with CUDA|SimpleNamespace|'limit_gb'")
"""What a failure says that the missing or made-up GPU is to blame for, and no package.

``limit_gb`` is a variable that zoos of January 2026 set where there is a GPU, and read anyway.
"""


class _Stopped(Exception):
    """A step failed: the cell ends here."""


@dataclass
class _Cell:
    """A cell while it runs."""

    task: CellTask
    folder: Path
    log: Path
    gpu: Gpu
    python: Path = Path()
    notes: dict[Level, str] = field(default_factory=dict)
    failures: list[CellFailure] = field(default_factory=list)
    blocked: str = ""
    needs: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory_mib: int = 0

    def fail(
        self, level: Level, step: str, error: str, seen: Mapping[str, Any] | None = None
    ) -> None:
        """Record that ``step`` failed with ``error``, told without the places of this machine."""
        who = blame(seen or {}, self.task.lock)
        told = _printable(self._place.sub("", error).replace(str(self.folder), "CELL"))
        self.failures.append(CellFailure(level, step, told, who.taker, who.provider, who.symbol))

    @property
    def _place(self) -> re.Pattern[str]:
        return re.compile(re.escape(str(self.folder)) + r"/\S*?site-packages/")

    def run(self, step: str, command: Sequence[str | Path], **variables: str) -> LimitedRun:
        """Run ``command`` as ``step``, within the limits, its output in the log."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n=== {step}\n")
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        run = run_limited(
            command,
            limits=self.task.limits,
            folder=home,
            log=self.log,
            variables={**step_variables(home), **variables},
        )
        self.seconds[step] = round(run.seconds, 1)
        self.memory_mib = max(self.memory_mib, run.memory_mib)
        return run


def run_cell(task: CellTask, folder: Path, log: Path) -> CellResult:
    """Run ``task`` in ``folder``, which is made anew and removed, with its output in ``log``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    cell = _Cell(task, folder, log, find_gpu())
    try:
        _raise_level(cell)
    except _Stopped:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _result(cell)


def _result(cell: _Cell) -> CellResult:
    task = cell.task
    return CellResult(
        key=task.key,
        stack=task.stack,
        python=task.python,
        platform=task.platform,
        sha256=task.sha256,
        machine=_machine(cell.gpu),
        date=str(datetime.datetime.now(datetime.timezone.utc).date()),
        notes=cell.notes,
        failures=tuple(cell.failures),
        blocked=cell.blocked,
        needs=cell.needs,
        seconds=cell.seconds,
        memory_mib=cell.memory_mib,
        log=hashlib.sha256(cell.log.read_bytes()).hexdigest(),
    )


def _machine(gpu: Gpu) -> str:
    names = ", ".join(device.name for device in gpu.devices) or "no GPU"
    return f"{machine_text()}, {names}"


def _raise_level(cell: _Cell) -> None:
    upto = Level[cell.task.upto.upper()]
    if hashlib.sha256(cell.task.lock.encode()).hexdigest() != cell.task.sha256:
        cell.fail(Level.RESOLVED, "lock", "its lock is not the file whose sha256 the matrix has")
        return
    if not cell.task.platform.startswith(platform.machine()):
        cell.blocked = f"this machine is {platform.machine()}"
        return
    _install(cell)
    for level, step in (
        (Level.LINKED, _link_it),
        (Level.IMPORTED, _import_it),
        (Level.TRAINED, _train),
    ):
        if level <= upto and not cell.blocked:
            step(cell)


def _install(cell: _Cell) -> None:
    try:
        made = make_environment(cell.task, cell.folder / "venv")
    except NotHere as error:
        cell.blocked = _printable(" ".join(str(error).split()))
        raise _Stopped from error
    except OperationError as error:
        cell.fail(Level.IMPORTED, "install", " ".join(error.message.split()))
        raise _Stopped from error
    cell.python = made.python
    cell.seconds.update(made.seconds)


def _link_it(cell: _Cell) -> None:
    run = cell.run("link", [sys.executable, "-m", _link.__name__, cell.python])
    answer = _last_object(cell.log)
    if run.status != 0 or run.stopped or "problems" not in answer:
        cell.fail(Level.LINKED, "link", run.stopped or _last_line(cell.log))
    elif answer["problems"]:
        cell.fail(Level.LINKED, "link", answer["problems"][0])
    elif answer["undetermined"]:
        cell.fail(Level.LINKED, "link", f"cannot be told: {answer['undetermined'][0]}")
    else:
        cell.notes[Level.LINKED] = answer["notes"][0] if answer["notes"] else "no package to link"


def _import_it(cell: _Cell) -> None:
    task, names, variables, note = cell.task, list(_ENTRY_POINTS[cell.task.runtime]), {}, ""
    if "vllm" in task.versions and cell.gpu.answer is Answer.YES:
        names.append("vllm")
    if task.runtime == "unsloth" and cell.gpu.answer is not Answer.YES:
        if Version(task.versions["unsloth"]) >= _CPU_SWITCH_SINCE:
            variables, note = {"UNSLOTH_ALLOW_CPU": "1"}, _SWITCH_NOTE
        else:
            names, note = ["--made-up-gpu", *names], _MADE_UP_NOTE
    run = cell.run("import", [cell.python, "-I", _entry_points.__file__, *names], **variables)
    answer = _last_object(cell.log)
    if run.status == 0 and "imported" in answer:
        if "vllm" in task.versions and "vllm" not in names:
            cell.blocked = "vLLM's extension needs libcuda, which comes with the driver of a GPU"
            return
        entry = ", ".join(name.replace(":", ".") for name in answer["imported"])
        cell.notes[Level.IMPORTED] = f"{entry}{' ' if note else ''}{note}"
        return
    cell.needs.update(undeclared(answer, task.lock))
    error = run.stopped or answer.get("first") or _end_of(run, cell.log)
    cell.fail(Level.IMPORTED, "import" if not note else f"import {note}", error, answer)
    raise _Stopped


def _train(cell: _Cell) -> None:
    """Train a tiny model, and hold the fast loss of grpoenv's runtime against the slow one."""
    made_up = cell.task.runtime == "unsloth" and cell.gpu.answer is not Answer.YES
    answer, how = _train_by_unsloth(cell) if made_up else _train_by_trl(cell)
    if cell.blocked:
        return
    figures = [*answer["kl"], *answer["loss"]]
    limit = _HALF_KL_LIMIT if answer.get("bf16") else KL_LIMIT
    if not all(map(math.isfinite, figures)) or abs(answer["kl"][0]) > limit:
        cell.fail(Level.TRAINED, "train", f"KL {answer['kl']}, loss {answer['loss']}")
        raise _Stopped
    _compare_losses(cell)
    level = Level.GPU if answer.get("device") == "cuda" else Level.TRAINED
    steps = f"{len(answer['kl'])} GRPO steps of a tiny model{how}"
    cell.notes[level] = (
        f"{steps}, KL at step 1 is {answer['kl'][0]:g}; the fast loss equals the slow one"
    )


def _train_by_trl(cell: _Cell) -> tuple[dict[str, Any], str]:
    """Train with trl's own trainer; return the figures, and how where it was no plain run."""
    folder = cell.folder / "home" / "grpo"
    command = [str(cell.python), "-I", _tiny_grpo.__file__, str(folder)]
    run, how = cell.run("train", command), ""
    if run.status > 0 and not run.stopped and NO_GPU in cell.log.read_text("utf-8", "replace"):
        run = cell.run("interpret", command, TRITON_INTERPRET="1")
        how = ", its Triton kernels in Triton's interpreter"
    answer = _last_object(cell.log)
    if run.status != 0 or not answer.get("kl"):
        if how and not run.stopped:
            cell.blocked = "its trainer asks Triton for a GPU"
            return {}, how
        cell.fail(Level.TRAINED, "train", run.stopped or _end_of(run, cell.log))
        raise _Stopped
    return answer, how


def _train_by_unsloth(cell: _Cell) -> tuple[dict[str, Any], str]:
    """Train on the CPU with the trainer that unsloth writes where it sees a GPU, a made-up one."""
    command = [str(cell.python), "-I", _unsloth_grpo.__file__, _STRONG_OPTIONS]
    run = cell.run("train", command, **_UNCOMPILED)
    answer = _last_object(cell.log)
    steps = answer.get("grpo", answer)
    precision = "bf16" if steps.get("bf16") else "float32"
    how = (
        f" under LoRA with the trainer that unsloth wrote, uncompiled on the CPU in {precision}, after "
        "an A100 made up for the import (no model or kernel of unsloth's own ran)"
    )
    if steps.get("kl") and None not in steps["kl"]:
        return steps, how
    error = run.stopped or _why_no_steps(steps) or _end_of(run, cell.log)
    if _OF_NO_GPU.search(error):
        cell.blocked = f"there is no GPU, only a made-up one: {_printable(error)}"
        return {}, how
    cell.fail(Level.TRAINED, "train with an A100 made up for the import", error)
    raise _Stopped


def _why_no_steps(steps: Mapping[str, Any]) -> str:
    if "exception" in steps:
        return f"{steps['exception']}: {steps['message']} ({steps['at']})"
    if steps.get("outcome") == "not generated":
        return "unsloth left trl's GRPOTrainer as it is"
    return "no divergence was logged" if "kl" in steps else ""


def _compare_losses(cell: _Cell) -> None:
    run = cell.run("losses", [cell.python, "-I", "-m", "grpoenv_runtime"])
    if run.status != 0 or run.stopped:
        cell.fail(Level.TRAINED, "losses", run.stopped or _end_of(run, cell.log))
        raise _Stopped


def _end_of(run: LimitedRun, log: Path) -> str:
    """Return how a process ended that gave no answer: by its last words, or by a signal."""
    return f"ended by signal {-run.status}" if run.status < 0 else _last_line(log)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else "said nothing"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[
        :_ERROR_LENGTH
    ]


def _last_object(log: Path) -> dict[str, Any]:
    try:
        value = json.loads(log.read_text("utf-8", "replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return value if isinstance(value, dict) else {}
