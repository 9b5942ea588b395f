from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from grpoenv_kernels import linear_logprob

SOFTCAPS = [None, 3.0]
SMALL_BUDGET = 4000  # bytes: tiles of a few dozen logits, so that every loop runs more than once


@pytest.mark.parametrize("softcap", SOFTCAPS)
@pytest.mark.parametrize("budget", [SMALL_BUDGET, 1 << 20])
def test_values_and_gradients_are_those_of_full_logits(
    make_problem, plain_scores, relative_error, softcap, budget
):
    problem = make_problem()
    options = {"bias": problem.bias, "temperature": problem.temperature, "logit_scale": 0.7}
    found = linear_logprob(
        problem.hidden,
        problem.weight,
        problem.targets,
        softcap=softcap,
        entropy=True,
        budget_bytes=budget,
        **options,
    )
    logps, entropies = plain_scores(
        problem.hidden, problem.weight, problem.targets, softcap=softcap, **options
    )
    assert relative_error(found.logps.detach(), logps.detach()) < 1e-14
    assert relative_error(found.entropies.detach(), entropies.detach()) < 1e-14
    by_logps, by_entropies = torch.randn(2, len(logps), dtype=torch.float64)
    ours = torch.autograd.grad(
        (found.logps * by_logps + found.entropies * by_entropies).sum(), problem.leaves()
    )
    plain = torch.autograd.grad(
        (logps * by_logps + entropies * by_entropies).sum(), problem.leaves()
    )
    for mine, theirs in zip(ours, plain, strict=True):
        assert relative_error(mine, theirs) < 1e-13


@pytest.mark.parametrize("softcap", SOFTCAPS)
def test_gradients_pass_gradcheck(make_problem, softcap):
    problem = make_problem(rows=4, vocabulary=7, width=3, unlabelled=1)

    def scores(hidden, weight, bias):
        found = linear_logprob(
            hidden,
            weight,
            problem.targets,
            bias=bias,
            temperature=problem.temperature,
            softcap=softcap,
            entropy=True,
            budget_bytes=400,
        )
        return found.logps, found.entropies

    assert torch.autograd.gradcheck(scores, problem.leaves())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_error_is_no_worse_than_plain_torch_at_the_same_dtype(
    make_problem, plain_scores, relative_error, dtype
):
    problem = make_problem(rows=64, vocabulary=501, width=32, dtype=dtype, unlabelled=0)
    upstream = torch.randn(64)
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in problem.leaves()]
    hidden, weight, bias = exact_leaves
    exact = plain_scores(hidden, weight, problem.targets, bias=bias)[0]
    plain = plain_scores(problem.hidden, problem.weight, problem.targets, bias=problem.bias)[0]
    found = linear_logprob(
        problem.hidden, problem.weight, problem.targets, bias=problem.bias, budget_bytes=40_000
    ).logps
    reference = torch.autograd.grad((exact * upstream).sum(), exact_leaves)
    errors = {"logps": (relative_error(found, exact), relative_error(plain, exact))}
    theirs = torch.autograd.grad((plain.float() * upstream).sum(), problem.leaves())
    ours = torch.autograd.grad((found * upstream).sum(), problem.leaves())
    for name, mine, other, best in zip(
        ("hidden", "weight", "bias"), ours, theirs, reference, strict=True
    ):
        assert mine.dtype == dtype
        errors[name] = (relative_error(mine, best), relative_error(other, best))
    print(errors)
    # The float32 results differ by the order of sums only, hence the floor.
    assert all(mine <= max(1.05 * other, 1e-6) for mine, other in errors.values()), errors


def test_partial_sums_over_tiles_are_not_rounded_to_the_input_dtype(
    make_problem, plain_scores, relative_error
):
    problem = make_problem(rows=16, vocabulary=4096, width=16, dtype=torch.bfloat16, unlabelled=0)
    found = linear_logprob(problem.hidden, problem.weight, problem.targets, budget_bytes=8000)
    by_hidden = torch.autograd.grad(found.logps.sum(), problem.hidden)[0]
    exact = problem.hidden.detach().double().requires_grad_()
    logps = plain_scores(exact, problem.weight.detach().double(), problem.targets)[0]
    best = torch.autograd.grad(logps.sum(), exact)[0]
    # One rounding to bfloat16 at the end has an expected relative error of 2**-9 / sqrt(3).
    assert relative_error(by_hidden, best) < 2**-9


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 31, 32, 33, 255, 257])
def test_any_vocabulary_size_does(make_problem, plain_scores, relative_error, vocabulary):
    problem = make_problem(rows=5, vocabulary=vocabulary, unlabelled=0)
    found = linear_logprob(
        problem.hidden, problem.weight, problem.targets, entropy=True, budget_bytes=2000
    )
    logps, entropies = plain_scores(problem.hidden, problem.weight, problem.targets)
    torch.testing.assert_close(found.logps, logps)
    torch.testing.assert_close(found.entropies, entropies)
    ours = torch.autograd.grad(found.logps.sum(), (problem.hidden, problem.weight))
    plain = torch.autograd.grad(logps.sum(), (problem.hidden, problem.weight))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_rows_and_no_labels_give_zero_gradients(make_problem, rows):
    problem = make_problem(rows=rows, unlabelled=rows)
    found = linear_logprob(problem.hidden, problem.weight, problem.targets, entropy=True)
    assert found.logps.shape == (rows,)
    by_hidden, by_weight = torch.autograd.grad(
        found.logps.sum() + found.entropies.sum(), (problem.hidden, problem.weight)
    )
    assert not by_hidden.any() and by_hidden.shape == problem.hidden.shape
    assert not by_weight.any() and by_weight.shape == problem.weight.shape


def test_every_row_gets_its_own_upstream_gradient(make_problem, plain_scores):
    problem = make_problem()
    upstream = torch.arange(len(problem.targets), dtype=torch.float64)
    found = linear_logprob(problem.hidden, problem.weight, problem.targets).logps
    plain = plain_scores(problem.hidden, problem.weight, problem.targets)[0]
    ours = torch.autograd.grad(found, problem.hidden, upstream)
    torch.testing.assert_close(ours, torch.autograd.grad(plain, problem.hidden, upstream))


@pytest.mark.parametrize("kind", ["expanded", "strided"])
def test_upstream_gradients_may_have_any_strides(make_problem, plain_scores, kind):
    problem = make_problem()
    rows = len(problem.targets)
    upstream = {
        "expanded": torch.tensor(1.5, dtype=torch.float64).expand(rows),
        "strided": torch.randn(rows, 3, dtype=torch.float64)[:, 1],
    }[kind]
    found = linear_logprob(problem.hidden, problem.weight, problem.targets).logps
    plain = plain_scores(problem.hidden, problem.weight, problem.targets)[0]
    ours = torch.autograd.grad(found, problem.hidden, upstream)
    torch.testing.assert_close(ours, torch.autograd.grad(plain, problem.hidden, upstream))


def test_inputs_may_be_transposed_strided_and_expanded(plain_scores):
    hidden = torch.randn(1, 16, dtype=torch.float64).expand(5, 16)[:, ::2].requires_grad_()
    weight = torch.randn(8, 37, dtype=torch.float64).t().requires_grad_()
    targets = torch.randint(0, 37, (10,))[::2]
    found = linear_logprob(hidden, weight, targets).logps
    plain = plain_scores(hidden, weight, targets)[0]
    torch.testing.assert_close(found, plain)
    ours = torch.autograd.grad(found.sum(), (hidden, weight))
    torch.testing.assert_close(ours, torch.autograd.grad(plain.sum(), (hidden, weight)))


@pytest.mark.parametrize("gap", [15.0, 25.0, 40.0])
def test_confident_tokens_keep_their_probability_and_gradient(gap):
    """In float32 ``z - logsumexp`` rounds to 0 from a gap of 17 on, and ``1 - p`` with it."""
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[gap, 0.0], [0.0, 0.0], [0.0, 1.0]])
    logps = linear_logprob(hidden, weight, torch.tensor([0])).logps
    exact_logp = -math.log1p(2 * math.exp(-gap))
    assert logps.item() == pytest.approx(exact_logp, rel=1e-5) and logps.item() < 0
    (grad,) = torch.autograd.grad(logps.sum(), hidden)
    others = -math.expm1(exact_logp)
    assert grad[0, 0].item() == pytest.approx(gap * others, rel=1e-5)


def test_log_probabilities_are_never_positive_at_a_large_logit_range():
    hidden = 300 * torch.randn(50, 16)
    weight = torch.randn(301, 16)
    targets = (hidden @ weight.t()).argmax(1)
    logps = linear_logprob(hidden, weight, targets, budget_bytes=20_000).logps
    assert bool((logps <= 0).all()) and bool(logps.isfinite().all())


def test_infinitely_unlikely_columns_have_no_probability_and_no_gradient(
    make_problem, plain_scores
):
    problem = make_problem(unlabelled=0)
    bias = torch.zeros(101, dtype=torch.float64)
    bias[30:60] = -torch.inf
    problem.targets.fill_(70)
    found = linear_logprob(
        problem.hidden, problem.weight, problem.targets, bias=bias, entropy=True, budget_bytes=4000
    )
    logps, entropies = plain_scores(problem.hidden, problem.weight, problem.targets, bias=bias)
    torch.testing.assert_close(found.logps, logps)
    torch.testing.assert_close(found.entropies, entropies)
    leaves = (problem.hidden, problem.weight)
    ours = torch.autograd.grad(found.logps.sum() + found.entropies.sum(), leaves)
    assert bool(ours[1].isfinite().all()) and not ours[1][30:60].any()
    plain = torch.autograd.grad(logps.sum() + entropies.sum(), leaves)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vanishing_temperature_gives_certainty_without_nan(dtype):
    hidden = torch.randn(6, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(9, 4, dtype=dtype)
    targets = (hidden @ weight.t()).argmax(1)
    found = linear_logprob(hidden, weight, targets, temperature=1e-6, entropy=True)
    torch.testing.assert_close(found.logps, torch.zeros(6, dtype=dtype))
    torch.testing.assert_close(found.entropies, torch.zeros(6, dtype=dtype))
    (grad,) = torch.autograd.grad(found.logps.sum(), hidden)
    assert bool(grad.isfinite().all())


def test_a_softcap_is_cap_times_tanh_of_logit_over_cap():
    hidden, weight = torch.tensor([[2.0]]), torch.tensor([[1.0], [-3.0]])
    logps = linear_logprob(hidden, weight, torch.tensor([0]), softcap=4.0).logps
    first, second = 4 * math.tanh(2 / 4), 4 * math.tanh(-6 / 4)
    assert logps.item() == pytest.approx(-math.log1p(math.exp(second - first)), rel=1e-6)


def test_autocast_does_not_lower_the_precision(make_problem):
    problem = make_problem(dtype=torch.float32)
    plain = linear_logprob(problem.hidden, problem.weight, problem.targets).logps
    expected = torch.autograd.grad(plain.sum(), (problem.hidden, problem.weight))
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_logprob(problem.hidden, problem.weight, problem.targets).logps
        grads = torch.autograd.grad(found.sum(), (problem.hidden, problem.weight))
    assert torch.equal(found, plain)
    assert all(torch.equal(mine, other) for mine, other in zip(grads, expected, strict=True))


def test_the_same_inputs_give_the_same_bits(make_problem):
    problem = make_problem(rows=40, vocabulary=700, width=16, dtype=torch.float32)

    def run():
        logps = linear_logprob(
            problem.hidden, problem.weight, problem.targets, budget_bytes=20_000
        ).logps
        return logps, *torch.autograd.grad(logps.sum(), (problem.hidden, problem.weight))

    assert all(torch.equal(one, two) for one, two in zip(run(), run(), strict=True))


def flops(run):
    # FlopCounterMode does not look into an operator.
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as seen:
        run()
    return sum(
        event.flops for event in seen.key_averages() if event.key in ("aten::mm", "aten::addmm")
    )


def test_only_rows_with_a_label_and_an_upstream_gradient_cost_a_product(make_problem):
    problem = make_problem(rows=20, vocabulary=64, width=8, unlabelled=5)
    leaves, upstream = (problem.hidden, problem.weight), torch.ones(20, dtype=torch.float64)
    upstream[5:12] = 0
    logps = linear_logprob(*leaves, problem.targets).logps
    unit = 2 * 8 * 64
    assert flops(lambda: linear_logprob(*leaves, problem.targets)) == 15 * unit
    assert flops(lambda: torch.autograd.grad(logps, leaves, upstream)) == 3 * 8 * unit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": torch.ones(2, 3, 4)}, r"hidden must be \[N, H\] and weight \[V, H\]"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, r"targets must be \[2\], got \[3\]"),
        ({"targets": torch.zeros(2)}, "targets must be integers, got torch.float32"),
        ({"targets": torch.tensor([0, 5])}, "target 5 is outside a vocabulary of 5"),
        ({"bias": torch.zeros(4)}, r"bias must be \[5\], got \[4\]"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": torch.tensor([1.0, -1.0])}, "temperature must be positive in every row"),
        ({"softcap": 0.0}, "softcap must be positive or None, got 0.0"),
        ({"logit_scale": 0.0}, "logit_scale must be finite and not zero, got 0.0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    good = {
        "hidden": torch.ones(2, 4),
        "weight": torch.ones(5, 4),
        "targets": torch.zeros(2, dtype=torch.long),
    }
    with pytest.raises(ValueError, match=message):
        linear_logprob(**{**good, **arguments})


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 20),
    vocabulary=st.integers(1, 200),
    width=st.integers(1, 12),
    budget=st.integers(100, 20_000),
    spread=st.floats(0.01, 30),
    seed=st.integers(0, 2**16),
)
def test_tiles_of_any_size_give_the_same_result(rows, vocabulary, width, budget, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64) * spread
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    hidden.requires_grad_(), weight.requires_grad_()
    found = linear_logprob(hidden, weight, targets, entropy=True, budget_bytes=budget)
    logp = torch.log_softmax(hidden @ weight.t(), 1)
    chosen = logp.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.logps, chosen, rtol=1e-9, atol=1e-12)
    ours = torch.autograd.grad(found.logps.sum(), (hidden, weight))
    plain = torch.autograd.grad(chosen.sum(), (hidden, weight))
    torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-10)
