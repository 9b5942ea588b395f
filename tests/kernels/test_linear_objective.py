from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from grpoenv_kernels import linear_objective

BUDGETS = {"many blocks": 70_000, "one block": 1 << 22, "nothing stored": 4_000}


def squares(coefficients):
    """A term for each row, of which the derivative depends on the log-probability."""
    return lambda logps, rows: coefficients[rows] * (logps + 0.1 * logps.square())


@pytest.mark.parametrize("budget", list(BUDGETS.values()), ids=list(BUDGETS))
@pytest.mark.parametrize(
    ("needs", "softcap", "dtype"),
    list(
        itertools.product(
            ["hidden", "hidden weight", "hidden weight bias", "bias", "weight"],
            [None, 3.0],
            [torch.float64, torch.float32, torch.bfloat16],
        )
    ),
)
def test_loss_and_gradients_are_those_of_full_logits(
    make_problem, plain_scores, relative_error, needs, softcap, dtype, budget
):
    problem = make_problem(rows=70, dtype=dtype)
    coefficients = torch.randn(70)
    coefficients[5:19] = 0
    names = dict(zip(("hidden", "weight", "bias"), problem.leaves(), strict=True))
    for name, leaf in names.items():
        leaf.requires_grad_(name in needs.split())
    found = linear_objective(
        problem.hidden,
        problem.weight,
        problem.targets,
        squares(coefficients),
        bias=problem.bias,
        temperature=problem.temperature,
        softcap=softcap,
        logit_scale=0.7,
        entropy=True,
        budget_bytes=budget,
    )
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in names.items()}
    logps, entropies = plain_scores(
        exact["hidden"],
        exact["weight"],
        problem.targets,
        bias=exact["bias"],
        temperature=problem.temperature,
        softcap=softcap,
        logit_scale=0.7,
    )
    loss = squares(coefficients)(logps, torch.arange(70)).sum()
    wanted = [names[name] for name in needs.split()]
    ours = torch.autograd.grad(found.loss, wanted)
    best = torch.autograd.grad(loss, [exact[name] for name in needs.split()])
    if dtype == torch.bfloat16:  # its products may be rounded on the way, as plain torch's are
        plain = plain_scores(
            names["hidden"],
            names["weight"],
            problem.targets,
            bias=problem.bias,
            temperature=problem.temperature,
            softcap=softcap,
            logit_scale=0.7,
            wide=True,
        )
        plain_loss = squares(coefficients)(plain[0], torch.arange(70)).sum()
        theirs = torch.autograd.grad(plain_loss, wanted)
        for mine, other, exactly in zip(ours, theirs, best, strict=True):
            assert relative_error(mine, exactly) <= 1.05 * relative_error(other, exactly) + 2e-6
        assert relative_error(found.logps, logps) <= relative_error(plain[0], logps)
        assert relative_error(found.entropies, entropies) <= relative_error(plain[1], entropies)
        return
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    assert relative_error(found.loss, loss) < max(tolerance, 2e-5 if tolerance > 1e-9 else 0)
    assert relative_error(found.logps, logps) < tolerance
    assert relative_error(found.entropies, entropies) < tolerance
    for mine, other in zip(ours, best, strict=True):
        assert relative_error(mine, other) <= tolerance


@pytest.mark.parametrize("budget", list(BUDGETS.values()), ids=list(BUDGETS))
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("steps", [(0, 90), (-500, 20), (-70, -60, 60, 75), (400, -400), (-3, 40)])
def test_logits_may_lie_at_any_level_and_rise_from_tile_to_tile(
    make_problem, plain_scores, relative_error, steps, entropy, budget
):
    problem = make_problem(rows=40, vocabulary=400, dtype=torch.float32)
    bias = torch.tensor(steps, dtype=torch.float32).repeat_interleave(400 // len(steps))
    found = linear_objective(
        problem.hidden,
        problem.weight,
        problem.targets,
        squares(torch.ones(40)),
        bias=bias,
        entropy=entropy,
        budget_bytes=budget,
    )
    exact = [leaf.detach().double().requires_grad_() for leaf in problem.leaves()[:2]]
    logps, entropies = plain_scores(*exact, problem.targets, bias=bias.double())
    assert relative_error(found.logps, logps) < 1e-6
    if found.entropies is not None:
        assert relative_error(found.entropies, entropies) < 1e-5
    leaves = (problem.hidden, problem.weight)
    best = torch.autograd.grad(squares(torch.ones(40))(logps, slice(None)).sum(), exact)
    for mine, other in zip(torch.autograd.grad(found.loss, leaves), best, strict=True):
        assert relative_error(mine, other) < 2e-5


@pytest.mark.parametrize("trainable", [False, True])
def test_half_a_loss_has_half_a_gradient_exactly(make_problem, trainable):
    problem = make_problem(dtype=torch.float32)
    problem.weight.requires_grad_(trainable)
    leaves = (problem.hidden, problem.weight) if trainable else (problem.hidden,)

    def gradients(scale):
        coefficients = torch.linspace(-1, 1, len(problem.targets))
        loss = linear_objective(
            problem.hidden, problem.weight, problem.targets, squares(coefficients)
        ).loss
        return torch.autograd.grad(scale * loss, leaves)

    for whole, half in zip(gradients(1.0), gradients(0.5), strict=True):
        assert torch.equal(half, whole / 2) and bool(whole.any())


@pytest.mark.parametrize("trainable", [False, True])
def test_a_retained_graph_can_be_differentiated_again(make_problem, trainable):
    problem = make_problem()
    problem.weight.requires_grad_(trainable)
    leaves = (problem.hidden, problem.weight) if trainable else (problem.hidden,)
    loss = linear_objective(
        problem.hidden, problem.weight, problem.targets, squares(torch.ones(13))
    ).loss
    first = torch.autograd.grad(loss, leaves, torch.tensor(0.0, dtype=torch.float64), True)
    second = torch.autograd.grad(loss, leaves, retain_graph=True)
    third = torch.autograd.grad(3 * loss, leaves)
    for none, one, three in zip(first, second, third, strict=True):
        assert not none.any() and bool(one.any())
        torch.testing.assert_close(3 * one, three)


@pytest.mark.parametrize("trainable", [False, True])
def test_the_gradient_passes_gradcheck(make_problem, trainable):
    problem = make_problem(rows=5, vocabulary=7, width=3, unlabelled=1)
    coefficients = torch.randn(5, dtype=torch.float64)
    problem.weight.requires_grad_(trainable)

    def loss(hidden, weight):
        return linear_objective(
            hidden, weight, problem.targets, squares(coefficients), temperature=0.7
        ).loss

    assert torch.autograd.gradcheck(loss, (problem.hidden, problem.weight))


def flops(problem, objective, leaves, **options):
    with FlopCounterMode(display=False) as counter:
        found = linear_objective(
            problem.hidden, problem.weight, problem.targets, objective, **options
        )
        torch.autograd.grad(found.loss, leaves)
    return counter.get_total_flops() / (2 * problem.hidden.shape[1] * len(problem.weight))


def test_a_trainable_head_costs_three_products_and_a_frozen_one_two(make_problem):
    problem = make_problem(rows=30, dtype=torch.float32, unlabelled=10)
    ones = squares(torch.ones(30))
    leaves = (problem.hidden, problem.weight)
    assert flops(problem, ones, leaves) == 3 * 20
    problem.weight.requires_grad_(False)
    assert flops(problem, ones, (problem.hidden,)) == 2 * 20
    assert flops(problem, ones, (problem.hidden,), budget_bytes=4_000) == 2 * 20


def test_rows_without_a_coefficient_cost_one_product(make_problem):
    problem = make_problem(rows=30, dtype=torch.float32, unlabelled=0)
    coefficients = torch.ones(30)
    coefficients[:12] = 0
    leaves = (problem.hidden, problem.weight)
    assert flops(problem, squares(coefficients), leaves) == 12 + 3 * 18
    problem.weight.requires_grad_(False)
    assert flops(problem, squares(coefficients), (problem.hidden,)) == 12 + 2 * 18


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_coefficient_at_all_gives_zero_gradients(make_problem, dtype):
    problem = make_problem(dtype=dtype)
    loss = linear_objective(
        problem.hidden, problem.weight, problem.targets, squares(torch.zeros(13))
    ).loss
    for grad in torch.autograd.grad(loss, (problem.hidden, problem.weight)):
        assert grad.dtype == dtype and not grad.any()


@pytest.mark.parametrize("rows", [0, 3])
def test_no_labelled_row_gives_a_differentiable_zero(make_problem, rows):
    problem = make_problem(rows=rows, unlabelled=rows)
    found = linear_objective(
        problem.hidden, problem.weight, problem.targets, squares(torch.ones(rows)), entropy=True
    )
    assert found.loss.item() == 0
    for grad in torch.autograd.grad(found.loss, (problem.hidden, problem.weight)):
        assert not grad.any()


def test_a_float16_head_keeps_gradients_that_only_a_loss_scaler_lifts_into_range(make_problem):
    problem = make_problem(rows=20, dtype=torch.float16, unlabelled=0)
    leaves = (problem.hidden, problem.weight)

    def gradients(coefficient, scale):
        loss = linear_objective(
            problem.hidden, problem.weight, problem.targets, lambda l, r: coefficient * l
        ).loss
        return torch.autograd.grad(loss * scale, leaves)

    for scaled, plain in zip(gradients(2.0**-30, 2.0**30), gradients(1.0, 1.0), strict=True):
        torch.testing.assert_close(scaled, plain)


def test_nothing_needs_a_gradient_under_no_grad(make_problem):
    problem = make_problem()
    with torch.no_grad():
        found = linear_objective(
            problem.hidden, problem.weight, problem.targets, squares(torch.ones(13))
        )
    assert not found.loss.requires_grad and found.loss.item() != 0


def test_an_objective_must_return_one_term_for_each_row(make_problem):
    problem = make_problem()
    with pytest.raises(ValueError, match=r"objective returned \[\], not \[\d+\]"):
        linear_objective(problem.hidden, problem.weight, problem.targets, lambda l, r: l.sum())


@pytest.mark.parametrize("budget", list(BUDGETS.values()), ids=list(BUDGETS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_inputs_give_the_same_bits(make_problem, dtype, budget):
    problem = make_problem(rows=90, vocabulary=307, width=16, dtype=dtype)
    coefficients = torch.linspace(-1, 1, 90)

    def run():
        found = linear_objective(
            problem.hidden,
            problem.weight,
            problem.targets,
            squares(coefficients),
            bias=problem.bias,
            budget_bytes=budget,
        )
        return found.loss, found.logps, *torch.autograd.grad(found.loss, problem.leaves())

    assert all(torch.equal(one, two) for one, two in zip(run(), run(), strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 90),
    vocabulary=st.integers(1, 200),
    width=st.integers(1, 12),
    budget=st.integers(100, 200_000),
    spread=st.floats(0.01, 30),
    zeros=st.floats(0, 1),
    softcap=st.sampled_from([None, 2.0]),
    trainable=st.booleans(),
    strided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_sweep_of_any_shape_is_that_of_full_logits(
    rows, vocabulary, width, budget, spread, zeros, softcap, trainable, strided, seed
):
    generator = torch.Generator().manual_seed(seed)
    step = 2 if strided else 1
    drawn = {"generator": generator, "dtype": torch.float64}
    hidden = (torch.randn(rows, width * step, **drawn) * spread)[:, ::step].requires_grad_()
    weight = torch.randn(width, vocabulary, **drawn).t().requires_grad_(trainable)
    targets = torch.randint(-1, vocabulary, (rows * step,), generator=generator)[::step]
    coefficients = torch.randn(rows, **drawn)
    coefficients[torch.rand(rows, generator=generator) < zeros] = 0
    found = linear_objective(
        hidden, weight, targets, squares(coefficients), softcap=softcap, budget_bytes=budget
    )
    logits = hidden @ weight.t()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    logps = torch.log_softmax(logits, 1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    terms = squares(coefficients)(logps, torch.arange(rows))
    loss = torch.where(targets >= 0, terms, 0).sum()
    torch.testing.assert_close(found.loss, loss, rtol=1e-9, atol=1e-9)
    leaves = (hidden, weight) if trainable else (hidden,)
    ours, plain = (torch.autograd.grad(each, leaves) for each in (found.loss, loss))
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-8)
