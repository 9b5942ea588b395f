from __future__ import annotations

import os
import subprocess
import sys
import types
from enum import Enum
from pathlib import Path

import pytest
import torch

from grpoenv.uv import run_uv
from grpoenv_kernels import linear_logprob, linear_objective

CASES = Path(__file__).with_name("zero_cases.py")
Status = Enum("Status", ["AVAILABLE", "NOT_AVAILABLE"])


class GatheredParameters:
    """What deepspeed 0.19.8 does with one parameter and one process, as far as it can be seen."""

    entered = 0

    def __init__(self, parameters):
        (self.parameter,) = parameters

    def __enter__(self):
        if self.parameter.ds_status == Status.AVAILABLE:
            raise RuntimeError("Nested GatheredParameters contexts cannot overlap parameters")
        GatheredParameters.entered += 1
        self.parameter.data, self.parameter.ds_status = self.parameter.kept, Status.AVAILABLE

    def __exit__(self, *error):
        partition(self.parameter)


def partition(parameter):
    if parameter.numel():
        parameter.kept = parameter.data
    parameter.data, parameter.ds_status = torch.empty(0), Status.NOT_AVAILABLE


@pytest.fixture
def partitioned(monkeypatch, make_problem):
    """A problem whose weight and bias are partitioned; ``taken`` is what ZeRO-3 would reduce."""
    zero = types.SimpleNamespace(ZeroParamStatus=Status, GatheredParameters=GatheredParameters)
    monkeypatch.setitem(sys.modules, "deepspeed", types.SimpleNamespace(zero=zero))
    problem = make_problem(dtype=torch.float32)
    for parameter in (problem.weight, problem.bias):
        parameter.taken = []

        def take(parameter):
            parameter.taken.append(parameter.grad)
            parameter.grad = None

        parameter.register_post_accumulate_grad_hook(take)
        partition(parameter)
    GatheredParameters.entered = 0
    return problem


def scored(hidden, weight, targets, bias):
    return linear_logprob(hidden, weight, targets, bias=bias).logps.sum()


def swept(hidden, weight, targets, bias):
    return linear_objective(hidden, weight, targets, lambda logps, rows: logps, bias=bias).loss


@pytest.mark.parametrize("call", [scored, swept])
def test_a_partitioned_head_is_gathered_once_in_each_pass(partitioned, call):
    hidden, weight, bias = partitioned.leaves()
    whole = [parameter.kept.clone().requires_grad_() for parameter in (weight, bias)]
    plain = call(hidden, whole[0], partitioned.targets, whole[1])
    expected = torch.autograd.grad(plain, [hidden, *whole])
    loss = call(hidden, weight, partitioned.targets, bias)
    assert torch.equal(loss, plain)
    assert GatheredParameters.entered == 2 and not weight.numel() and not bias.numel()
    loss.backward()
    assert GatheredParameters.entered == 4 and not weight.numel() and not bias.numel()
    assert torch.equal(hidden.grad, expected[0])
    for parameter, best in zip((weight, bias), expected[1:], strict=True):
        assert len(parameter.taken) == 1 and torch.equal(parameter.taken[0], best)


def test_a_frozen_partitioned_head_is_gathered_in_the_forward_pass_alone(partitioned):
    hidden, weight, bias = partitioned.leaves()
    weight.requires_grad_(False), bias.requires_grad_(False)
    swept(hidden, weight, partitioned.targets, bias).backward()
    assert GatheredParameters.entered == 2 and not weight.taken and bool(hidden.grad.any())


def test_what_a_layer_has_gathered_is_left_to_its_hooks(partitioned):
    hidden, weight, bias = partitioned.leaves()
    for parameter in (weight, bias):
        parameter.data, parameter.ds_status = parameter.kept, Status.AVAILABLE
    scored(hidden, weight, partitioned.targets, bias).backward()
    assert GatheredParameters.entered == 0 and weight.numel()
    assert weight.taken[0].shape == weight.shape


@pytest.fixture(scope="module")
def python_with_deepspeed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    found = folder / "venv" / "bin" / "python"
    base = ["pip", "install", "--quiet", "--python", found]
    for words in (
        ["venv", "--quiet", "--python", sys.executable, folder / "venv"],
        [*base, "torch==2.13.0", "peft", "transformers", "setuptools", "wheel", CASES.parents[2]],
        [*base, "--no-build-isolation", "deepspeed==0.19.8"],
    ):
        run = run_uv(words)
        assert run.status == 0, run.messages
    return found


@pytest.mark.real
def test_real_ranks_under_zero_3_train_as_with_whole_parameters(tmp_path, python_with_deepspeed):
    command = [python_with_deepspeed, "-W", "ignore", CASES]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", tmp_path / "store"],
            env={**os.environ, "DS_BUILD_OPS": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(printed)
