"""Installs with the real uv, from small wheels, into real environments, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from depot import NO_GPU, Depot
from grpoenv import install as installing
from grpoenv import transaction
from grpoenv.errors import OperationError
from grpoenv.gpu import Answer, Gpu, GpuDevice
from grpoenv.install import InstallResult, check_disk, install
from grpoenv.lockfile import CpuBuild
from grpoenv.machine import probe_machine
from grpoenv.planning import locks_for
from grpoenv.probe import Probe
from grpoenv.resolve import Plan, Wishes, resolve
from grpoenv.uv import run_uv
from grpoenv.verify import verify

A_GPU = Gpu(Answer.YES, "a test", "580.1", (13, 0), (GpuDevice("T4", (7, 5), 15360),))


class Recorder:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.undone: list[str] = []
        self.plans: list[Plan] = []
        self.lines: list[str] = []

    def recovered(self, packages: Sequence[str]) -> None:
        self.undone += packages

    def planned(self, plan: Plan, probe: Probe) -> None:
        self.plans.append(plan)

    def message(self, line: str) -> None:
        self.lines.append(line)


def run(depot: Depot, python: Path, reporter: Recorder | None = None) -> InstallResult:
    wishes = Wishes(stack="trl")
    return install(python, depot.matrix(), depot.data, wishes, reporter or Recorder())


def packages(python: Path) -> dict[str, str]:
    listed = run_uv(["pip", "list", "--python", python, "--format", "json"]).output
    return {row["name"]: row["version"] for row in json.loads(listed)}


def picture(python: Path) -> dict[str, bytes]:
    root = python.parent.parent
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {".grpoenv", "__pycache__", ".lock"} & {*path.parts, path.name}
    }


@pytest.fixture
def stocked(depot: Depot) -> Depot:
    """A depot with an older and a newer stack, of which the newer is chosen."""
    for version in ("1.0", "2.0"):
        pins = [
            depot.wheel("trl", version, files={"trl/data.txt": version * 100}),
            depot.wheel("torch", version, requires=["trl"]),
        ]
        depot.stack(f"trl-{version}", pins)
    return depot


def install_older(depot: Depot, python: Path) -> None:
    wishes = Wishes(stack="trl-1.0")
    install(python, depot.matrix(), depot.data, wishes, Recorder())


def test_a_stack_is_installed_with_grpoenv_and_verified(stocked: Depot, venv: Path) -> None:
    result = run(stocked, venv)
    assert result.verdict.problems == ()
    assert result.verdict.stack == "trl-2.0"
    assert packages(venv) == {"grpoenv": "0.1.0", "torch": "2.0", "trl": "2.0"}


def test_the_grpoenv_that_is_put_there_is_this_very_one(stocked: Depot, venv: Path) -> None:
    run(stocked, venv)
    site = Path(probe_machine(venv).interpreter.purelib)
    here = Path(installing.__file__)
    assert (site / "grpoenv" / "install.py").read_bytes() == here.read_bytes()
    assert (site / "grpoenv" / "data" / "compat-matrix.toml").is_file()
    assert (site / "grpoenv_kernels" / "__init__.py").is_file()
    assert (venv.parent / "grpoenv").is_file()


def test_a_second_run_changes_nothing(stocked: Depot, venv: Path) -> None:
    run(stocked, venv)
    before = picture(venv)
    recorder = Recorder()
    result = run(stocked, venv, recorder)
    assert result.plan.changes == ()
    assert recorder.lines == []
    assert picture(venv) == before


def test_packages_are_replaced_and_others_left_alone(stocked: Depot, venv: Path) -> None:
    install_older(stocked, venv)
    stocked.wheel("mine", "5")
    assert run_uv(["pip", "install", "--python", venv, "mine"]).status == 0
    result = run(stocked, venv)
    changed = {change.pin.name: str(change.old) for change in result.plan.changes}
    assert changed == {"trl": "1.0", "torch": "1.0"}
    assert packages(venv) == {"grpoenv": "0.1.0", "mine": "5", "torch": "2.0", "trl": "2.0"}


def test_a_file_that_is_not_the_locked_one_is_refused(stocked: Depot, venv: Path) -> None:
    install_older(stocked, venv)
    before = picture(venv)
    stocked.wheel("torch", "2.0", files={"torch/evil.py": "import os"})
    with pytest.raises(OperationError) as caught:
        run(stocked, venv)
    assert caught.value.message.startswith(
        "a file from the index does not have the hash that the lock has; the environment is as it"
    )
    assert picture(venv) == before


def test_a_wheel_that_is_not_to_be_had_leaves_all_as_it_was(stocked: Depot, venv: Path) -> None:
    install_older(stocked, venv)
    before = picture(venv)
    (stocked.wheels / "torch-2.0-py3-none-any.whl").unlink()
    with pytest.raises(OperationError, match="the environment is as it was"):
        run(stocked, venv)
    assert picture(venv) == before


def test_without_a_network_the_index_is_named_as_the_cause(
    stocked: Depot, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture(venv)
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:pa55@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(OperationError) as caught:
        run(stocked, venv)
    assert caught.value.message.startswith("the package index could not be reached")
    assert "pa55" not in caught.value.message
    assert "UV_FIND_LINKS" in caught.value.remedy
    assert picture(venv) == before


def test_files_that_are_missing_after_success_undo_the_install(
    stocked: Depot, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_older(stocked, venv)
    before = picture(venv)
    real = installing._install_locked

    def lossy(plan: Plan, interpreter: object, *others: object) -> None:
        real(plan, interpreter, *others)  # type: ignore[arg-type]
        (Path(interpreter.purelib) / "trl" / "data.txt").unlink()  # type: ignore[attr-defined]

    monkeypatch.setattr(installing, "_install_locked", lossy)
    with pytest.raises(OperationError, match="uv reported success, and files are missing"):
        run(stocked, venv)
    assert picture(venv) == before


@pytest.mark.parametrize(
    ("gpu", "version"), [(NO_GPU, "2.13.0+cpu"), (A_GPU, "2.13.0")], ids=["no GPU", "GPU"]
)
def test_the_build_of_torch_is_the_one_planned_though_a_folder_has_both(
    depot: Depot, venv: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, version: str
) -> None:
    plain, cpu = depot.wheel("torch", "2.13.0"), depot.wheel("torch", "2.13.0+cpu")
    build = CpuBuild(cpu.version, cpu.hashes[0], cpu.size_bytes)
    both = replace(plain, hashes=(*plain.hashes, *cpu.hashes), cpu=build)
    depot.stack("one", [depot.wheel("trl", "1"), both])
    monkeypatch.setattr("grpoenv.machine.find_gpu", lambda: gpu)
    run(depot, venv)
    assert packages(venv)["torch"] == version


def lose_a_file(site: Path) -> None:
    (site / "trl" / "data.txt").unlink()


def lose_the_record(site: Path) -> None:
    (site / "trl-2.0.dist-info" / "RECORD").unlink()


def lose_the_metadata(site: Path) -> None:
    (site / "trl-2.0.dist-info" / "METADATA").unlink()


def keep_an_older_copy(site: Path) -> None:
    (site / "trl-1.0.dist-info").mkdir()
    (site / "trl-1.0.dist-info" / "METADATA").write_text("Name: trl\nVersion: 1.0\n")


DAMAGES = [lose_a_file, lose_the_record, lose_the_metadata, keep_an_older_copy]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_found_and_installed_anew(
    stocked: Depot, venv: Path, damage: Callable[[Path], None]
) -> None:
    run(stocked, venv)
    before = picture(venv)
    damage(Path(probe_machine(venv).interpreter.purelib))
    found = verify(probe_machine(venv), stocked.matrix(), stocked.data).problems
    assert any(finding.culprit == "trl 2.0" for finding in found)
    result = run(stocked, venv)
    assert [(row.pin.name, str(row.old)) for row in result.plan.changes] == [("trl", "2.0")]
    assert result.verdict.problems == ()
    assert picture(venv) == before


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_mending_that_fails_leaves_the_damage_as_it_was(
    stocked: Depot, venv: Path, damage: Callable[[Path], None]
) -> None:
    run(stocked, venv)
    damage(Path(probe_machine(venv).interpreter.purelib))
    before = picture(venv)
    stocked.wheel("trl", "2.0", files={"trl/evil.py": "import os"})
    with pytest.raises(OperationError):
        run(stocked, venv)
    assert picture(venv) == before


def test_a_read_only_target_is_refused_before_anything_is_done(
    stocked: Depot, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root may write anywhere
    with pytest.raises(OperationError) as caught:
        run(stocked, venv)
    assert caught.value.message.endswith("site-packages cannot be written by this user")
    assert caught.value.remedy == "install into an environment of your own: add --venv .venv"


def test_a_target_that_belongs_to_the_system_is_refused(
    stocked: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {**installing.probe_machine().interpreter.__dict__, "externally_managed": True}
    with pytest.raises(OperationError, match="EXTERNALLY-MANAGED"):
        installing._refuse_unfit(type(installing.probe_machine().interpreter)(**described))


def test_too_little_room_is_said_before_anything_is_done(stocked: Depot, venv: Path) -> None:
    probe = probe_machine(venv)
    matrix = stocked.matrix()
    plan = resolve(probe, matrix, locks_for(probe, matrix, stocked.data), Wishes(stack="trl"))
    huge = Plan(
        **{
            **vars(plan),
            "changes": tuple(
                type(change)(change.pin, None, change.new, 10**15) for change in plan.changes
            ),
        }
    )
    with pytest.raises(OperationError, match=r"MiB free, and the install needs about"):
        check_disk(huge, [venv.parent])
    check_disk(plan, [venv.parent])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_file_system_is_refused_before_anything_is_done(
    stocked: Depot, small_disk: Path
) -> None:
    python = small_disk / "venv" / "bin" / "python"
    assert run_uv(["venv", "--quiet", "--python", sys.executable, small_disk / "venv"]).status == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    recorder = Recorder()
    with pytest.raises(OperationError, match="site-packages cannot be written by this user"):
        run(stocked, python, recorder)
    assert recorder.plans == []


def test_a_disk_that_fills_up_leaves_all_as_it_was(
    depot: Depot, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = small_disk / "venv" / "bin" / "python"
    assert run_uv(["venv", "--quiet", "--python", sys.executable, small_disk / "venv"]).status == 0
    depot.stack("old", [depot.wheel("trl", "1.0")])
    monkeypatch.setattr(installing, "_needs_grpoenv", lambda probe: False)
    run(depot, python)
    before = picture(python)
    depot.stack("new", [depot.wheel("trl", "2.0", files={"trl/big": "x" * 2**21})])
    monkeypatch.setattr(installing, "check_disk", lambda plan, folders: None)
    with pytest.raises(OperationError) as caught:
        run(depot, python)
    assert caught.value.message.startswith("the disk is full; the environment is as it was")
    assert picture(python) == before


SCRIPT = """
import sys, time
from pathlib import Path
from grpoenv import install as installing
from grpoenv.matrix_file import load_matrix
from grpoenv._data import DataPaths
from grpoenv.progress import SilentReporter
from grpoenv.resolve import Wishes

def stop(*arguments):
    print("at", flush=True)
    time.sleep(60)

real = installing._install_locked
def then_stop(*arguments):
    real(*arguments)
    stop()

setattr(installing, *{"before": ("_install_locked", stop), "after": ("_install_locked", then_stop),
    "verify": ("verify", lambda *a, **k: stop())}[sys.argv[3]])
root = Path(sys.argv[1])
data = DataPaths(root / "compat-matrix.toml", root / "lockfiles")
installing.install(Path(sys.argv[2]), load_matrix(data.matrix), data, Wishes(stack="trl"),
    SilentReporter())
"""


@pytest.mark.parametrize("phase", ["before", "after", "verify"])
def test_a_kill_at_any_phase_is_undone_by_the_next_run(
    stocked: Depot, venv: Path, phase: str
) -> None:
    install_older(stocked, venv)
    before = picture(venv)
    arguments = [sys.executable, "-c", SCRIPT, str(stocked.root), str(venv), phase]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"at\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cut_off = verify(probe_machine(venv), stocked.matrix(), stocked.data)
    assert cut_off.problems[0].message.startswith("was cut off while it changed this environment")
    interpreter = probe_machine(venv).interpreter
    with transaction.locked(interpreter):
        assert set(transaction.recover(interpreter)) == {"trl", "torch"}
    assert picture(venv) == before
    assert run(stocked, venv).verdict.stack == "trl-2.0"


def test_a_kill_in_the_middle_of_uv_is_reported_and_mended(stocked: Depot, venv: Path) -> None:
    install_older(stocked, venv)
    arguments = [sys.executable, "-c", SCRIPT, str(stocked.root), str(venv), "after"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"at\n"
    process.kill()
    process.communicate()
    site = Path(probe_machine(venv).interpreter.purelib)
    (site / "trl-2.0.dist-info" / "RECORD").unlink()  # what a kill inside uv can leave behind
    recorder = Recorder()
    result = run(stocked, venv, recorder)
    assert recorder.undone == ["torch", "trl"]
    assert result.verdict.problems == ()


def test_an_interrupt_is_undone_at_once(
    stocked: Depot, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_older(stocked, venv)
    before = picture(venv)
    real = installing._install_locked

    def interrupted(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(installing, "_install_locked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stocked, venv)
    assert picture(venv) == before


def test_code_that_a_kernel_holds_is_named_for_a_restart(depot: Depot, venv: Path) -> None:
    """A stand-in for a kernel maps a library of trl, and runs the install as its child."""
    library = {"trl/native.so": "x" * 5000}
    for version in ("1.0", "2.0"):
        depot.stack(f"trl-{version}", [depot.wheel("trl", version, files=library)])
    install_older(depot, venv)
    kernel = """
import mmap, subprocess, sys, glob
# ipykernel_launcher
path = glob.glob(sys.argv[1] + "/lib/python*/site-packages/trl/native.so")[0]
with open(path, "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
done = subprocess.run(sys.argv[3:], capture_output=True, text=True)
print(done.stdout, done.stderr)
"""
    cli = [sys.executable, "-m", "grpoenv", "install", "--stack", "trl", "--json"]
    cli += ["--python", str(venv), "--matrix", str(depot.data.matrix)]
    command = [sys.executable, "-c", kernel, str(venv.parent.parent), "ipykernel_launcher", *cli]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(output)["restart"] == ["trl"]
