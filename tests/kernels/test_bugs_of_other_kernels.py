"""Bugs that fused heads elsewhere have had, and that no other test here would find by its name."""

from __future__ import annotations

import pytest
import torch

from grpoenv_kernels import linear_logprob, linear_objective

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_log_probabilities_of_low_precision_inputs_are_float32(make_problem, dtype):
    problem = make_problem(dtype=dtype)
    found = linear_logprob(problem.hidden, problem.weight, problem.targets, entropy=True)
    assert found.logps.dtype == found.entropies.dtype == torch.float32
    swept = linear_objective(problem.hidden, problem.weight, problem.targets, lambda l, r: l)
    assert swept.loss.dtype == swept.logps.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_weight_gradient_of_a_single_row_is_right(
    make_problem, plain_scores, relative_error, dtype
):
    """The product that sums over rows has one term."""
    problem = make_problem(rows=1, unlabelled=0, dtype=dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in problem.leaves()[:2]]
    best = torch.autograd.grad(plain_scores(*exact, problem.targets)[0].sum(), exact)
    scored = linear_logprob(problem.hidden, problem.weight, problem.targets).logps.sum()
    swept = linear_objective(problem.hidden, problem.weight, problem.targets, lambda l, r: l).loss
    for loss in (scored, swept):
        ours = torch.autograd.grad(loss, problem.leaves()[:2])
        for mine, other in zip(ours, best, strict=True):
            assert relative_error(mine, other) < max(2e-6, torch.finfo(dtype).eps)


def test_the_temperature_is_one_unless_said_otherwise(make_problem, plain_scores):
    problem = make_problem()
    found = linear_logprob(problem.hidden, problem.weight, problem.targets).logps
    expected = plain_scores(problem.hidden, problem.weight, problem.targets, temperature=1.0)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sweep", [False, True])
def test_a_float16_loss_scaler_overflows_nothing_on_the_way(make_problem, relative_error, sweep):
    """Upstream gradients of 65536 are beyond float16, the gradients themselves are not."""
    problem = make_problem(rows=20, dtype=torch.float16, unlabelled=0)
    hidden, weight = problem.hidden, problem.weight
    with torch.no_grad():
        hidden.mul_(2.0**-6), weight.mul_(2.0**-6)

    def gradients(scale):
        if sweep:
            loss = linear_objective(hidden, weight, problem.targets, lambda l, r: 2.0**-4 * l).loss
        else:
            loss = 2.0**-4 * linear_logprob(hidden, weight, problem.targets).logps.sum()
        return torch.autograd.grad(scale * loss, (hidden, weight))

    for scaled, plain in zip(gradients(65536.0), gradients(256.0), strict=True):
        assert bool(scaled.isfinite().all())
        assert relative_error(scaled / 65536, plain / 256) < 2**-9


@pytest.mark.parametrize("sweep", [False, True])
def test_every_token_may_have_its_own_temperature_and_inputs_any_strides(plain_scores, sweep):
    torch.manual_seed(4)
    hidden = torch.randn(9, 2, 16, dtype=torch.float64)[:, 1, ::2].requires_grad_()
    weight = torch.randn(8, 37, dtype=torch.float64).t().requires_grad_()
    bias = torch.zeros(1, dtype=torch.float64).expand(37)
    targets = torch.tensor([5]).expand(9)
    temperature = (torch.rand(18) + 0.3)[::2]
    options = {"bias": bias, "temperature": temperature, "softcap": 2.0, "logit_scale": -0.7}
    expected = plain_scores(hidden, weight, targets, **options)[0]
    if sweep:
        loss = linear_objective(hidden, weight, targets, lambda l, r: l.sin(), **options).loss
    else:
        loss = linear_logprob(hidden, weight, targets, **options).logps.sin().sum()
    ours = torch.autograd.grad(loss, (hidden, weight))
    plain = torch.autograd.grad(expected.sin().sum(), (hidden, weight))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("sweep", [False, True])
def test_minus_infinity_before_any_finite_logit_gives_no_nan(plain_scores, sweep):
    """A first tile without a finite logit leaves no reference to be relative to."""
    hidden = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(600, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(600, dtype=torch.float64)
    bias[:300] = -torch.inf
    targets = torch.tensor([400, 599, 300])
    options = {"bias": bias, "budget_bytes": 4000}
    if sweep:
        loss = linear_objective(hidden, weight, targets, lambda l, r: l, **options).loss
    else:
        loss = linear_logprob(hidden, weight, targets, **options).logps.sum()
    expected = plain_scores(hidden, weight, targets, bias=bias)[0].sum()
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(ours, torch.autograd.grad(expected, (hidden, weight)))


def test_nan_hidden_states_give_nan_and_not_a_number_that_looks_right(make_problem):
    problem = make_problem(unlabelled=0)
    with torch.no_grad():
        problem.hidden[4] = torch.nan
    logps = linear_logprob(problem.hidden, problem.weight, problem.targets).logps
    assert logps.isnan().nonzero().flatten().tolist() == [4]
