"""Install a plan with uv, as one transaction, and verify what came of it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from packaging.utils import NormalizedName

from grpoenv import __version__
from grpoenv._data import DataPaths
from grpoenv.checks import CHECKS, Finding
from grpoenv.checks.interrupted import CHECK as INTERRUPTED
from grpoenv.checks.record import CHECK as FILES
from grpoenv.distributions import Distribution, distributions, leftovers
from grpoenv.errors import OperationError
from grpoenv.installed_stack import write_installed_stack
from grpoenv.lockfile import Pin, render_lock
from grpoenv.machine import (
    existing_parent,
    is_running_interpreter,
    probe_machine,
    wheel_folders,
)
from grpoenv.matrix import Matrix
from grpoenv.own_wheel import build_own_wheel
from grpoenv.planning import plan_environment
from grpoenv.probe import Interpreter, Probe
from grpoenv.resolve import Change, Plan, TorchSource, Wishes
from grpoenv.transaction import locked, open_journal, recover
from grpoenv.uv import explain_failure, run_uv
from grpoenv.verify import Verdict, verify

__all__ = ["InstallResult", "Reporter", "check_disk", "install", "requirements_text"]

_GRPOENV = NormalizedName("grpoenv")
_UNPACKED_RATIO = 2.4
"""Bytes on disk per byte of wheel, rounded up: 2.3 for stack trl-1.16 with its CPU torch (739 MiB
from 322 MiB of wheels), 2.0 for unsloth-2026.10.7 (5.9 GiB from 3.0 GiB); both on 2026-11-23."""
_DISK_RESERVE = 1.2
_PATIENCE_S = 600.0
_SLOWEST_BYTES_PER_S = 100_000.0
"""uv gives up on a server that stays silent, and never on one that drips: a slower one is stopped."""


class Reporter(Protocol):
    """What an install tells about its progress."""

    def recovered(self, packages: Sequence[str]) -> None:
        """An earlier change was cut off and has just been undone."""

    def planned(self, plan: Plan, probe: Probe) -> None:
        """The plan, before anything is done."""

    def message(self, line: str) -> None:
        """A line that uv wrote."""


@dataclass(frozen=True)
class InstallResult:
    """What was done; ``restart`` names packages that a live kernel still holds the old code of."""

    plan: Plan
    verdict: Verdict
    restart: tuple[NormalizedName, ...]


def install(
    python: Path,
    matrix: Matrix,
    data: DataPaths,
    wishes: Wishes,
    reporter: Reporter,
    *,
    program: str = "grpoenv",
) -> InstallResult:
    """Bring the environment of the interpreter ``python`` to a tested stack.

    Raises NoStackFits, or OperationError with the environment as it was.
    """
    interpreter = probe_machine(python).interpreter
    _refuse_unfit(interpreter)
    with locked(interpreter):
        if undone := recover(interpreter):
            reporter.recovered(undone)
        probe = probe_machine(python)
        plan = plan_environment(probe, matrix, data, wishes)
        reporter.planned(plan, probe)
        with_own = _needs_grpoenv(probe)
        if plan.changes or with_own:
            verdict = _apply(plan, probe, matrix, data, reporter, program, with_own)
        else:
            verdict = verify(
                probe, matrix, data, program=program, installed_as=(plan.stack, plan.target)
            )
        write_installed_stack(probe.interpreter, plan.stack, plan.target)
    replaced = {change.pin.name for change in plan.changes if change.old is not None}
    restart = tuple(name for name in probe.loaded or () if name in replaced)
    return InstallResult(plan, verdict, restart)


def requirements_text(changes: Sequence[Change]) -> str:
    """Return the hashed requirements for ``changes``, rendered anew and never copied from a file."""
    pins, exact = [], []
    for change in changes:
        pin = change.pin
        if pin.cpu and change.new == pin.cpu.version:
            pins.append(Pin(pin.name, pin.cpu.version, (pin.cpu.hash,), pin.cpu.size_bytes))
        elif pin.cpu:
            hashes = tuple(hash_ for hash_ in pin.hashes if hash_ != pin.cpu.hash)
            pins.append(replace(pin, hashes=hashes, cpu=None))
            exact.append(f"{pin.name}=={pin.version}")
        else:
            pins.append(pin)
    text = render_lock(pins)
    for pinned in exact:  # == would take the +cpu build where a wheel folder of the user's has it
        text = text.replace(f"{pinned} ", f"{pinned.replace('==', '===')} ")
    return text


def check_disk(plan: Plan, folders: Sequence[Path]) -> None:
    """Raise OperationError if one of ``folders`` has too little room for what is installed."""
    need = int(plan.download_bytes * _UNPACKED_RATIO * _DISK_RESERVE)
    for folder in folders:
        free = shutil.disk_usage(existing_parent(folder)).free
        if free < need:
            raise OperationError(
                f"{folder} has {free / 2**20:,.0f} MiB free, and the install needs about "
                f"{need / 2**20:,.0f} MiB there",
                remedy="free some space, or choose another place: --venv DIR, UV_CACHE_DIR=DIR",
            )


def _refuse_unfit(interpreter: Interpreter) -> None:
    if interpreter.externally_managed:
        raise OperationError(
            f"{interpreter.executable} is managed by the system (EXTERNALLY-MANAGED)",
            remedy="install into an environment of your own: add --venv .venv",
        )
    if not interpreter.writable:
        raise OperationError(
            f"{interpreter.purelib} cannot be written by this user",
            remedy="install into an environment of your own: add --venv .venv",
        )


def _needs_grpoenv(probe: Probe) -> bool:
    if is_running_interpreter(Path(probe.interpreter.executable)):
        return False
    installed = probe.packages.get(_GRPOENV)
    return installed is None or str(installed) != __version__


def _apply(
    plan: Plan,
    probe: Probe,
    matrix: Matrix,
    data: DataPaths,
    reporter: Reporter,
    program: str,
    with_own: bool,
) -> Verdict:
    cache = Path(run_uv(["cache", "dir"]).output.strip())
    check_disk(plan, [Path(probe.interpreter.purelib), cache])
    names = [change.pin.name for change in plan.changes] + [_GRPOENV] * with_own
    installed = distributions(probe.interpreter.site_folders)
    stale = [row for row in leftovers(installed) if row.name in names]
    journal = open_journal(probe.interpreter, installed, names, stale)
    try:
        _remove_unowned([*stale, *(installed[name] for name in names if name in installed)], stale)
        with tempfile.TemporaryDirectory(prefix="grpoenv-") as folder:
            _install_locked(plan, probe.interpreter, Path(folder), reporter, with_own)
        verdict = verify(
            probe,
            matrix,
            data,
            program=program,
            checks=[check for check in CHECKS if check is not INTERRUPTED],  # its journal is open
            installed_as=(plan.stack, plan.target),
        )
        _refuse_incomplete(verdict)
    except BaseException:
        journal.roll_back()
        raise
    journal.commit()
    return verdict


def _install_locked(
    plan: Plan, interpreter: Interpreter, folder: Path, reporter: Reporter, with_own: bool
) -> None:
    lines = [requirements_text(plan.changes)] if plan.changes else []
    if with_own:
        wheel = build_own_wheel(folder)
        lines.append(f"{wheel} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(lines), encoding="utf-8")
    run = run_uv(
        [
            *("pip", "install", "--python", interpreter.executable, "--no-deps", "--no-build"),
            *("--require-hashes", "-r", requirements),
            *(f"--reinstall-package={row.pin.name}" for row in plan.changes if row.old == row.new),
            *_torch_arguments(plan.torch),
        ],
        timeout_s=_PATIENCE_S + plan.download_bytes / _SLOWEST_BYTES_PER_S,
        on_message=reporter.message,
    )
    if run.status != 0:
        cause, remedy = explain_failure(run.messages)
        raise OperationError(
            f"{cause}; the environment is as it was. uv said:\n{_last_lines(run.messages)}",
            remedy=remedy,
        )


def _remove_unowned(candidates: Sequence[Distribution], stale: Sequence[Distribution]) -> None:
    """Remove metadata that uv could not uninstall by: it has no RECORD, or is a leftover.

    The journal holds these files. uv then puts the package there anew, over whatever is left of it.
    """
    for distribution in candidates:
        if distribution in stale or distribution.recorded_files() is None:
            shutil.rmtree(distribution.info)


def _torch_arguments(torch: TorchSource) -> list[str]:
    if torch is TorchSource.CPU_FOLDER:
        return [word for folder in wheel_folders() for word in ("--find-links", str(folder))]
    if torch is TorchSource.CPU_BACKEND:
        return ["--torch-backend", "cpu"]
    return []


def _refuse_incomplete(verdict: Verdict) -> None:
    broken = [finding for finding in verdict.problems if finding.check == FILES.name]
    if broken:
        raise OperationError(
            "uv reported success, and files are missing; the environment is as it was:\n"
            + "\n".join(_one_line(finding) for finding in broken),
            remedy="run the command again; if it fails in the same way: uv cache clean",
        )


def _one_line(finding: Finding) -> str:
    return f"  {finding.culprit}: {finding.message}"


def _last_lines(text: str, *, count: int = 8) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-count:])
