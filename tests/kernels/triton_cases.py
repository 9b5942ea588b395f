"""Tests of the Triton kernels; test_triton_kernels.py runs them, on the interpreter or on a GPU."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from torch import Tensor

from grpoenv_kernels import linear_logprob, linear_objective, softmax_tile, sweep, triton_tile
from grpoenv_kernels.head import Head, HeadOptions
from grpoenv_kernels.softmax_tile import RowCoefficients, RowSums, Upstream

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
OPERANDS = [torch.float32, torch.bfloat16, torch.float16]
# What a result may be off by: a rounding or two to the operand dtype. The interpreter truncates
# bfloat16 instead of rounding it.
ROUNDING = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@pytest.fixture
def operands_as_on_a_gpu(monkeypatch):
    """Take the kernels and low-precision operands on this device as well."""
    monkeypatch.setattr(softmax_tile, "_on_device", lambda values: True)
    monkeypatch.setattr(Head, "operand", property(lambda head: head.weight.dtype))
    monkeypatch.setattr(sweep, "is_native", lambda head: False)


def worst(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def make_head(rows, columns, dtype, softcap=None, logit_scale=0.8):
    hidden = torch.randn(rows, 8, device=DEVICE).to(dtype)
    weight = torch.randn(columns, 8, device=DEVICE).to(dtype)
    targets = torch.randint(0, columns, (rows,), device=DEVICE)
    temperature = torch.rand(rows, device=DEVICE) + 0.5
    return Head(hidden, weight, None, None, targets, HeadOptions(temperature, softcap, logit_scale))


@pytest.mark.parametrize(
    ("dtype", "softcap", "biased", "entropy"),
    [
        *itertools.product(OPERANDS, [None, 3.0], [True], [True]),
        (torch.float32, None, False, False),
        (torch.float64, 3.0, True, True),
    ],
)
@pytest.mark.parametrize("columns", [1, 301, 4999])
def test_a_tile_is_that_of_plain_torch(
    operands_as_on_a_gpu, dtype, softcap, biased, entropy, columns
):
    head = make_head(5, 2 * columns, dtype, softcap)
    block = head.block(torch.arange(5, device=DEVICE))
    bias = torch.randn(columns, dtype=head.dtype, device=DEVICE) if biased else None
    ours, plain = (RowSums.start(5, head.empty(), entropy) for _ in range(2))
    upstream = torch.randn(2, 5, dtype=head.dtype, device=DEVICE)
    for start in (0, columns):
        product = 3 * torch.randn(5, columns, dtype=head.dtype, device=DEVICE) + start
        shares = head.empty(5, columns, dtype=dtype), head.empty(5, columns)
        before = ours.reference
        factor = triton_tile.fold_tile(product, shares[0], block, bias, start, ours, True)
        softmax_tile._on_device = lambda values: False
        softmax_tile.fold_tile(product.clone(), shares[1], block, bias, start, plain, True)
        assert torch.equal(factor, torch.exp2(before - ours.reference))
        apart = torch.exp2(ours.reference - plain.reference)
        if columns > 1:
            assert worst(shares[0] * apart[:, None], shares[1]) < ROUNDING[dtype]
    assert worst(ours.total * apart, plain.total) < ROUNDING[head.dtype]
    torch.testing.assert_close(ours.label, plain.label)
    if entropy:
        found, expected = ours.scores().entropies, plain.scores().entropies
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    scores = plain.scores()
    gradient = Upstream(upstream[0], upstream[1] if entropy else None)
    coefficients = RowCoefficients.of(block, scores, gradient)
    out = head.empty(5, columns, dtype=dtype), head.empty(5, columns)
    triton_tile.gradient_tile(product.clone(), out[0], block, bias, columns, coefficients)
    softmax_tile.gradient_tile(product, out[1], block, bias, columns, coefficients)
    assert worst(*out) < 3 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", OPERANDS)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_whole_head_agrees_with_float64(
    operands_as_on_a_gpu, make_problem, plain_scores, relative_error, dtype, softcap
):
    problem = make_problem(rows=9, vocabulary=107, width=16, dtype=dtype)
    leaves = [leaf.detach().to(DEVICE).requires_grad_() for leaf in problem.leaves()]
    targets, temperature = problem.targets.to(DEVICE), problem.temperature.to(DEVICE)
    options = {"temperature": temperature, "softcap": softcap}
    found = linear_logprob(
        *leaves[:2], targets, bias=leaves[2], entropy=True, budget_bytes=8_000, **options
    )
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logps, entropies = plain_scores(*exact[:2], targets, bias=exact[2], **options)
    assert relative_error(found.logps, logps) < 2e-6
    assert relative_error(found.entropies, entropies) < 2e-6
    upstream = torch.randn(2, 9, device=DEVICE)
    ours = torch.autograd.grad(
        (found.logps * upstream[0] + found.entropies * upstream[1]).sum(), leaves
    )
    best = torch.autograd.grad((logps * upstream[0] + entropies * upstream[1]).sum(), exact)
    for mine, other in zip(ours, best, strict=True):
        assert mine.dtype == dtype and relative_error(mine, other) < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", OPERANDS)
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("budget", [8_000, 1 << 22])
def test_a_sweep_agrees_with_float64(
    operands_as_on_a_gpu, make_problem, plain_scores, relative_error, dtype, trainable, budget
):
    problem = make_problem(rows=20, vocabulary=107, width=16, dtype=dtype)
    hidden = problem.hidden.detach().to(DEVICE).requires_grad_()
    weight = problem.weight.detach().to(DEVICE).requires_grad_(trainable)
    targets, coefficients = problem.targets.to(DEVICE), torch.randn(20, device=DEVICE)
    leaves = [hidden, weight] if trainable else [hidden]

    def objective(logps, rows):
        return coefficients[rows] * (logps + 0.1 * logps.square())

    found = linear_objective(hidden, weight, targets, objective, budget_bytes=budget)
    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    logps, _ = plain_scores(*exact, targets)
    loss = objective(logps, torch.arange(20, device=DEVICE)).sum()
    assert relative_error(found.loss, loss) < 1e-5
    ours = torch.autograd.grad(found.loss, leaves)
    best = torch.autograd.grad(loss, exact[: len(leaves)])
    for mine, other in zip(ours, best, strict=True):
        assert relative_error(mine, other) < ROUNDING[dtype]


def test_float16_gradients_of_a_loss_scaler_do_not_overflow(
    operands_as_on_a_gpu, make_problem, relative_error
):
    problem = make_problem(rows=20, vocabulary=301, dtype=torch.float16, unlabelled=0)
    hidden, weight = (leaf.detach().to(DEVICE) for leaf in (problem.hidden, problem.weight))
    hidden.mul_(2.0**-12), weight.requires_grad_()
    found = linear_logprob(hidden, weight, problem.targets.to(DEVICE)).logps
    scaled, plain = (
        torch.autograd.grad(found.sum() * scale, weight, retain_graph=True)[0] / scale
        for scale in (65536.0, 1024.0)
    )
    assert bool(scaled.isfinite().all()) and relative_error(scaled, plain) < 2**-7


def test_offsets_beyond_two_to_the_31st_element_are_reached():
    stride = 2**30 + 7
    untouched = torch.empty(2 * stride + 300, dtype=torch.float32, device=DEVICE)
    product = untouched.as_strided((3, 300), (stride, 1))
    product.copy_(torch.randn(3, 300))
    head = make_head(3, 300, torch.float32)
    block = head.block(torch.arange(3, device=DEVICE))
    sums, expected = (RowSums.start(3, head.empty(), False) for _ in range(2))
    triton_tile.fold_tile(product, product, block, None, 0, sums, False)
    triton_tile.fold_tile(product.clone(), head.empty(3, 300), block, None, 0, expected, False)
    assert torch.equal(sums.total, expected.total)
    coefficients = RowCoefficients.of(
        block, sums.scores(), Upstream(torch.ones_like(sums.total), None)
    )
    near = triton_tile.gradient_tile(
        product.clone(), head.empty(3, 300), block, None, 0, coefficients
    )
    triton_tile.gradient_tile(product.clone(), product, block, None, 0, coefficients)
    assert torch.equal(product, near) and bool(near[2].any())
    triton_tile.scale_rows(product, torch.tensor([1.0, 1.0, 2.0], device=DEVICE))
    assert 2 * stride > 2**31 and untouched[2 * stride] == product[2, 0] != 0


def test_a_grid_has_more_rows_than_65535():
    values = torch.ones(65_540, 1, device=DEVICE)
    factor = torch.ones(65_540, device=DEVICE)
    factor[-2:] = 4
    triton_tile.scale_rows(values, factor)
    assert values[-3:, 0].tolist() == [1, 4, 4]


def test_columns_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="columns of a tile must be contiguous"):
        triton_tile.scale_rows(torch.ones(4, 4, device=DEVICE).t(), torch.ones(4, device=DEVICE))


def test_no_rows_launch_nothing():
    triton_tile.scale_rows(torch.ones(0, 4, device=DEVICE), torch.ones(0, device=DEVICE))
