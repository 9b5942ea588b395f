from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from grpoenv_kernels import LowRank, linear_logprob, linear_objective

SCALING = 1.7


class Adapter(NamedTuple):
    down: torch.Tensor
    up: torch.Tensor

    def of(self, hidden: torch.Tensor) -> LowRank:
        return LowRank.lora(hidden, self.down, self.up, SCALING)


@pytest.fixture
def adapter():
    def make(dtype=torch.float64, vocabulary=101, width=8, rank=3):
        return Adapter(
            torch.randn(rank, width, dtype=dtype).requires_grad_(),
            (0.3 * torch.randn(vocabulary, rank, dtype=dtype)).requires_grad_(),
        )

    return make


def merged(weight, lora):
    return weight + SCALING * lora.up @ lora.down


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("budget", [3000, 1 << 20])
def test_scores_and_gradients_are_those_of_the_merged_head(
    make_problem, plain_scores, adapter, trainable, budget
):
    problem, lora = make_problem(), adapter()
    problem.weight.requires_grad_(trainable)
    leaves = [problem.hidden, problem.bias, lora.down, lora.up]
    leaves += [problem.weight] if trainable else []
    options = {"bias": problem.bias, "softcap": 3.0, "temperature": problem.temperature}
    found = linear_logprob(
        problem.hidden,
        problem.weight,
        problem.targets,
        low_rank=lora.of(problem.hidden),
        entropy=True,
        budget_bytes=budget,
        **options,
    )
    logps, entropies = plain_scores(
        problem.hidden, merged(problem.weight, lora), problem.targets, **options
    )
    torch.testing.assert_close(found.logps, logps)
    torch.testing.assert_close(found.entropies, entropies)
    ours = torch.autograd.grad(found.logps.sum() + found.entropies.square().sum(), leaves)
    plain = torch.autograd.grad(logps.sum() + entropies.square().sum(), leaves)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("budget", [3000, 70_000, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_sweep_finds_the_gradients_of_the_merged_head(
    make_problem, plain_scores, adapter, relative_error, trainable, budget, dtype
):
    problem, lora = make_problem(rows=70, dtype=dtype), adapter(dtype)
    problem.weight.requires_grad_(trainable)
    leaves = [problem.hidden, lora.down, lora.up]
    leaves += [problem.weight] if trainable else []
    found = linear_objective(
        problem.hidden,
        problem.weight,
        problem.targets,
        lambda logps, rows: logps.sin(),
        low_rank=lora.of(problem.hidden),
        budget_bytes=budget,
    )
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    weight = exact[3] if trainable else problem.weight.detach().double()
    whole = merged(weight, Adapter(exact[1], exact[2]))
    logps, _ = plain_scores(exact[0], whole, problem.targets)
    ours = torch.autograd.grad(found.loss, leaves)
    plain = torch.autograd.grad(logps.sin().sum(), exact)
    for mine, other in zip(ours, plain, strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, other) < (1e-12 if dtype == torch.float64 else 2e-2)


def test_gradients_pass_gradcheck(make_problem, adapter):
    problem, lora = make_problem(rows=4, vocabulary=7, width=3), adapter(vocabulary=7, width=3)

    def scores(hidden, weight, down, up):
        low_rank = LowRank.lora(hidden, down, up, SCALING)
        found = linear_logprob(hidden, weight, problem.targets, low_rank=low_rank, budget_bytes=400)
        return found.logps

    assert torch.autograd.gradcheck(scores, (problem.hidden, problem.weight, lora.down, lora.up))


def test_a_merged_weight_never_exists():
    """Nothing of the size of the weight is allocated, forward or backward."""
    vocabulary, width = 40_000, 64
    weight = torch.randn(vocabulary, width)
    lora = Adapter(
        torch.randn(2, width, requires_grad=True), torch.zeros(vocabulary, 2, requires_grad=True)
    )
    hidden = torch.randn(4, width, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as seen:
        found = linear_objective(
            hidden,
            weight,
            torch.zeros(4, dtype=torch.long),
            lambda logps, rows: logps,
            low_rank=lora.of(hidden),
            budget_bytes=2 << 20,
        )
        found.loss.backward()
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert 0 < largest < weight.nbytes / 4


def test_dropout_acts_on_the_adapter_alone(make_problem, adapter):
    problem, lora = make_problem(), adapter()
    kept = (torch.rand_like(problem.hidden) < 0.5) * problem.hidden * 2
    low_rank = LowRank.lora(kept, *lora, SCALING)
    found = linear_logprob(problem.hidden, problem.weight, problem.targets, low_rank=low_rank)
    logits = problem.hidden @ problem.weight.t() + SCALING * kept @ lora.down.t() @ lora.up.t()
    rows = problem.targets >= 0
    logps = logits.log_softmax(-1)[rows].gather(1, problem.targets[rows][:, None])[:, 0]
    torch.testing.assert_close(found.logps[rows], logps)


@pytest.mark.parametrize(
    ("rows", "up", "message"),
    [
        (1, (101, 3), r"low_rank.rows must be \[\d+, r\], got \[1, 3\]"),
        (None, (101, 2), r"low_rank.up must be \[101, 3\], got \[101, 2\]"),
        (None, (100, 3), r"low_rank.up must be \[101, 3\], got \[100, 3\]"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(make_problem, rows, up, message):
    problem = make_problem()
    count = len(problem.hidden) if rows is None else rows
    low_rank = LowRank(torch.zeros(count, 3).double(), torch.zeros(up).double())
    with pytest.raises(ValueError, match=message):
        linear_logprob(problem.hidden, problem.weight, problem.targets, low_rank=low_rank)


def test_an_adapter_of_another_width_is_refused(make_problem):
    problem = make_problem()
    with pytest.raises(ValueError, match=r"down must be \[r, 8\], got \[3, 9\]"):
        LowRank.lora(problem.hidden, torch.zeros(3, 9), torch.zeros(101, 3))


def test_an_adapter_of_another_dtype_is_refused(make_problem):
    problem = make_problem()
    low_rank = LowRank(torch.zeros(len(problem.hidden), 3), torch.zeros(101, 3))
    with pytest.raises(ValueError, match=r"like the weight, got torch\.float32"):
        linear_logprob(problem.hidden, problem.weight, problem.targets, low_rank=low_rank)
