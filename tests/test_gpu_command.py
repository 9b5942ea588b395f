"""The command that does everything on a GPU: what it records where steps fail, and what it hides."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


gpu, gpu_checks = load("gpu"), load("gpu_checks")


def step(name: str, program: str, timeout_s: int = 60, **options: object):
    return gpu.Step(name, "parity", timeout_s, (sys.executable, "-c", program), "json", **options)


@pytest.fixture
def once(monkeypatch):
    """Sizes of a CPU, and time limits as they are written."""
    return replace(gpu.TINY, patience=1)


def test_a_step_that_fails_is_recorded_and_the_others_go_on(tmp_path, capsys, once):
    steps = [
        step("bad", "print('so it ends'); raise SystemExit(3)"),
        replace(step("lacking", ""), needs="no_such_module"),
        replace(step("missing", ""), command=("no-such-command",)),
        step("finding", "raise SystemExit(1)", answers=(0, 1)),
        step("good", "print('{\"a\": 1}')", writes="good.json"),
    ]
    assert gpu.run_all(steps, once, tmp_path) == 1
    log = json.loads((tmp_path / "log.json").read_text())
    outcomes = {name: entry["outcome"] for name, entry in log.items()}
    assert outcomes == {
        "bad": "failed",
        "lacking": "absent",
        "missing": "absent",
        "finding": "done",
        "good": "done",
    }
    assert (log["bad"]["status"], log["finding"]["status"]) == (3, 1)
    assert "so it ends" in capsys.readouterr().out
    assert log["lacking"]["reason"] == "no_such_module is not installed"
    assert log["missing"]["reason"] == "no-such-command: No such file or directory"
    assert json.loads((tmp_path / "good.json").read_text()) == {"a": 1}
    assert log["good"]["command"].startswith("python -c")


def test_a_later_run_of_some_steps_keeps_the_entries_of_others(tmp_path, once):
    assert gpu.run_all([step("one", "raise SystemExit(1)")], once, tmp_path) == 1
    assert gpu.run_all([step("two", "")], once, tmp_path) == 0
    assert list(json.loads((tmp_path / "log.json").read_text())) == ["one", "two"]


def test_what_a_step_started_ends_with_its_time(tmp_path, once):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(5); open({str(alive)!r}, 'w')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert gpu.run_all([step("slow", program, timeout_s=2)], once, tmp_path) == 1
    assert json.loads((tmp_path / "log.json").read_text())["slow"]["outcome"] == "timed out"
    time.sleep(5)
    assert not alive.exists()


@pytest.mark.parametrize("part", gpu.PARTS)
def test_a_part_takes_less_than_ten_minutes_on_a_gpu(part):
    limits = [each.timeout_s for each in gpu.steps(gpu.GPU) if each.part == part]
    assert limits and sum(limits) <= 595


def test_steps_and_files_have_names_of_their_own():
    steps = gpu.steps(gpu.GPU)
    assert len({each.name for each in steps}) == len(steps)
    assert {each.part for each in steps} == set(gpu.PARTS)


def test_a_published_probe_names_nobody():
    found = {
        "interpreter": {"executable": "/home/me/py", "version": "3.12.3", "site_folders": ["/home/me"]},
        "packages": {"torch": "2.11.0", "our-secret": "1"},
        "loaded": ["torch", "our-secret"],
        "wheels": ["our_secret-1-py3-none-any.whl"],
        "gpu": {"driver": "580.82.07"},
    }  # fmt: skip
    public = gpu_checks.public(found, {"torch"})
    assert public["packages"] == {"torch": "2.11.0"} and public["loaded"] == ["torch"]
    assert public["gpu"] == found["gpu"]
    assert not any(word in json.dumps(public) for word in ("/home", "secret"))
    assert {"torch", "trl", "unsloth"} <= gpu_checks.locked_packages()
