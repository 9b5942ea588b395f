"""The operator as compilers and ``torch.library`` see it."""

from __future__ import annotations

import pytest
import torch

from grpoenv_kernels import linear_logprob, linear_objective


def arguments(problem, bias, temperatures, softcap, entropy):
    hidden, weight, _ = problem.leaves()
    chosen_bias = problem.bias if bias else None
    chosen = problem.temperature if temperatures else None
    return (
        hidden,
        weight,
        chosen_bias,
        None,
        problem.targets,
        0.7,
        chosen,
        softcap,
        1.0,
        entropy,
        4000,
    )


@pytest.mark.parametrize(
    ("dtype", "bias", "temperatures", "softcap", "entropy"),
    [(torch.float64, True, True, 3.0, True), (torch.bfloat16, False, False, None, False)],
)
def test_the_operator_keeps_its_promises(make_problem, dtype, bias, temperatures, softcap, entropy):
    problem = make_problem(dtype=dtype)
    given = arguments(problem, bias, temperatures, softcap, entropy)
    torch.library.opcheck(torch.ops.grpoenv.linear_logprob.default, given)


def test_the_backward_operator_keeps_its_promises(make_problem):
    problem = make_problem()
    given = arguments(problem, True, True, 3.0, True)
    scores = [each.detach() for each in torch.ops.grpoenv.linear_logprob(*given)]
    fixed = [each.detach() if isinstance(each, torch.Tensor) else each for each in given]
    upstream = torch.randn(2, 13, dtype=torch.float64)
    needs = [True, False, True, False]
    torch.library.opcheck(
        torch.ops.grpoenv.linear_logprob_backward.default,
        (*fixed[:9], 4000, scores, upstream[0], upstream[1], needs),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiler_traces_around_the_operator_without_a_break(make_problem, dynamic):
    problem = make_problem()

    def loss(hidden, weight, bias, targets, temperature):
        found = linear_logprob(
            2 * hidden, weight, targets, bias=bias, temperature=temperature, entropy=True
        )
        return (found.logps - 0.1 * found.entropies).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    inputs = (*problem.leaves(), problem.targets, problem.temperature)
    expected = torch.autograd.grad(loss(*inputs), problem.leaves())
    found = torch.autograd.grad(compiled(*inputs), problem.leaves())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# torch's own doing where it resumes behind a break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiler_breaks_at_an_objective_and_goes_on(make_problem):
    """An operator cannot take a function as its argument, so ``linear_objective`` is none."""
    problem = make_problem()

    def loss(hidden, weight, targets):
        return 2 * linear_objective(3 * hidden, weight, targets, lambda l, r: l.sin()).loss

    inputs = (problem.hidden, problem.weight, problem.targets)
    expected = torch.autograd.grad(loss(*inputs), inputs[:2])
    compiled = torch.compile(loss, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs), inputs[:2])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
