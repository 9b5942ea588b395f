from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from grpoenv_kernels import __main__ as command
from grpoenv_kernels.smoke import Parity, Smoke, run_smoke


def test_every_parity_holds_on_this_machine():
    found = run_smoke(torch.device("cpu"), timed=False)
    assert found.holds and not found.speed
    assert {each.dtype for each in found.parity} == {"float32", "bfloat16", "float16"}
    assert {each.head for each in found.parity} == {"plain", "bias, temperature", "softcap"}
    quantities = {each.what for each in found.parity if each.head == "bias, temperature"}
    assert quantities == {
        "log-probability",
        "entropy",
        "d hidden",
        "d weight",
        "d bias",
        "d hidden, frozen head, one sweep",
        "d hidden, one sweep",
        "d weight, one sweep",
        "d bias, one sweep",
    }


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_an_error_beyond_plain_torch_is_an_exit_code_of_one(monkeypatch, capsys, arguments):
    broken = Smoke("CPU", (1, 2, 3), [Parity("float32", "plain", "d hidden", 1e-2, 1e-6)], [])
    monkeypatch.setattr(command, "run_smoke", lambda device, timed: broken)
    assert command.main(arguments) == 1
    printed = capsys.readouterr().out
    if arguments:
        assert json.loads(printed)["ok"] is False
    else:
        assert "float32 plain: d hidden" in printed and "TOO LARGE" in printed


@pytest.mark.real
def test_the_command_prints_times_against_the_floor():
    done = subprocess.run(
        [sys.executable, "-m", "grpoenv_kernels", "--json"], capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"]
    assert all(each["floor"] > 0.9 for each in found["speed"])
