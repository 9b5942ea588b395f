"""What each process of a gloo group checks; test_parallel_heads.py starts them."""

from __future__ import annotations

import gc
import itertools
import sys
from functools import partial
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils.flop_counter import FlopCounterMode

from grpoenv_kernels import (
    LowRank,
    linear_logprob,
    linear_objective,
    parallel_linear_logprob,
    parallel_linear_objective,
)

ROWS, MANY, WIDTH, VOCABULARY = 13, 80, 8, 101


def problem(dtype, size=ROWS):
    torch.manual_seed(11)
    hidden = torch.randn(size, WIDTH, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, dtype=dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (size,))
    targets[3] = -100
    return hidden, weight, bias, targets, torch.rand(size) + 0.5


def my_slice():
    """Uneven slices, of which the last process's is the smallest."""
    sizes = [60, 40, 1] if dist.get_world_size() == 3 else [93, 8]
    first = sum(sizes[: dist.get_rank()])
    return slice(first, first + sizes[dist.get_rank()])


def check_slices(dtype, softcap, entropy):
    hidden, weight, bias, targets, temperature = problem(dtype)
    options = {"temperature": temperature, "softcap": softcap, "entropy": entropy}
    upstream = torch.randn(2, ROWS)
    upstream[:, 5] = 0

    def loss(found):
        total = (found.logps * upstream[0]).sum()
        return total + (found.entropies * upstream[1]).sum() if entropy else total

    whole = linear_logprob(hidden, weight, targets, bias=bias, **options)
    expected = torch.autograd.grad(loss(whole), (hidden, weight, bias))
    mine = my_slice()
    part, part_bias = (each.detach()[mine].requires_grad_() for each in (weight, bias))
    found = parallel_linear_logprob(
        hidden, part, targets, first=mine.start, vocabulary=VOCABULARY, bias=part_bias,
        budget_bytes=3000, **options,
    )  # fmt: skip
    near = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(found.logps, whole.logps, **near)
    if entropy:
        torch.testing.assert_close(found.entropies, whole.entropies, **near)
    by_hidden, by_part, by_bias = torch.autograd.grad(loss(found), (hidden, part, part_bias))
    if dtype == torch.bfloat16:
        near = {"rtol": 2**-7, "atol": 2**-7}
    torch.testing.assert_close(by_hidden, expected[0], **near)
    torch.testing.assert_close(by_part, expected[1][mine], **near)
    torch.testing.assert_close(by_bias, expected[2][mine], **near)
    same_everywhere(found.logps)


def same_everywhere(values):
    everyone = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, values.detach())
    assert all(torch.equal(one, values) for one in everyone)


def squares(logps, rows):
    """Terms of which rows 6 and 7 have no derivative."""
    coefficients = torch.linspace(-1, 1, MANY, dtype=logps.dtype)
    coefficients[6:8] = 0
    return coefficients[rows] * (logps + 0.1 * logps.square())


def check_sweep(dtype, trainable, budget, softcap, rank):
    hidden, weight, bias, targets, temperature = problem(dtype, MANY)
    rows, up = torch.randn(MANY, 2, dtype=dtype), torch.randn(VOCABULARY, 2, dtype=dtype)
    leaves = [weight, bias, up]
    options = {"temperature": temperature, "softcap": softcap, "entropy": True}

    def run(call, weight, bias, up, **more):
        for leaf in (weight, bias, up):
            leaf.requires_grad_(trainable)
        low_rank = LowRank(rows, up) if rank else None
        return call(
            hidden, weight, targets, squares, bias=bias, low_rank=low_rank, **options, **more
        )

    wanted = 1 + trainable * (3 if rank else 2)
    with mock.patch("grpoenv_kernels.sweep.is_native", return_value=False):  # slices are not
        whole = run(linear_objective, *leaves)
    expected = torch.autograd.grad(3 * whole.loss, [hidden, *leaves][:wanted])
    mine = my_slice()
    parts = [leaf.detach()[mine].clone() for leaf in leaves]
    more = {"first": mine.start, "vocabulary": VOCABULARY, "budget_bytes": budget}
    found = run(parallel_linear_objective, *parts, **more)
    grads = torch.autograd.grad(3 * found.loss, [hidden, *parts][:wanted])
    near = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(found.loss, whole.loss, **near)
    torch.testing.assert_close(found.logps, whole.logps, **near)
    torch.testing.assert_close(found.entropies, whole.entropies, **near)
    if dtype == torch.bfloat16:
        near = {"rtol": 2**-6, "atol": 2**-6}
    torch.testing.assert_close(grads[0], expected[0], **near)
    for grad, best in zip(grads[1:], expected[1:], strict=True):
        torch.testing.assert_close(grad, best[mine], **near)
    for values in (found.loss, found.logps, grads[0]):
        same_everywhere(values)


def check_work_and_communication(budget, blocks):
    """One collective operation for each block and one at the end; every product formed once.

    One block lies in the memory of the weight gradient, the others in the budget.
    """
    hidden, weight, _, targets, _ = problem(torch.float64, MANY)
    mine = my_slice()
    for trainable, products in ((False, 2), (True, 3)):
        expected = (blocks if trainable else 1, 1)
        part = weight.detach()[mine].requires_grad_(trainable)
        leaves = [hidden, part] if trainable else [hidden]
        gathers = mock.patch.object(dist, "all_gather", wraps=dist.all_gather)
        sums = mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce)
        with gathers as gathered, sums as reduced, FlopCounterMode(display=False) as counter:
            loss = parallel_linear_objective(
                hidden, part, targets, lambda logps, rows: logps, first=mine.start,
                vocabulary=VOCABULARY, budget_bytes=budget,
            ).loss  # fmt: skip
            torch.autograd.grad(loss, leaves)
        assert (gathered.call_count, reduced.call_count) == expected
        assert counter.get_total_flops() == products * 2 * (MANY - 1) * WIDTH * len(part)


def check_empty():
    hidden, weight, *_ = problem(torch.float32)
    found = parallel_linear_logprob(
        hidden[:0], weight, torch.zeros(0, dtype=torch.long), first=0, vocabulary=VOCABULARY
    )
    assert found.logps.shape == (0,)
    found.logps.sum().backward()
    assert not hidden.grad.any() and not weight.grad.any()
    hidden, weight, _, targets, _ = problem(torch.float64)
    with torch.no_grad():
        weight[1:] = -torch.inf  # the slices of all but the first process have no finite logit
        hidden.copy_(hidden.abs())
    mine = my_slice()
    part = weight.detach()[mine].requires_grad_()
    found = parallel_linear_objective(
        hidden, part, torch.zeros_like(targets), squares, first=mine.start, vocabulary=VOCABULARY
    )
    assert not found.logps.any() and found.loss == 0


def check_an_empty_slice():
    hidden, weight, _, targets, _ = problem(torch.float64)
    whole = linear_objective(hidden, weight, targets, squares).loss
    expected = torch.autograd.grad(whole, (hidden, weight))
    part = weight.detach()[: VOCABULARY if dist.get_rank() == 0 else 0].requires_grad_()
    first = 0 if dist.get_rank() == 0 else VOCABULARY
    found = parallel_linear_objective(
        hidden, part, targets, squares, first=first, vocabulary=VOCABULARY
    ).loss
    by_hidden, by_part = torch.autograd.grad(found, (hidden, part))
    torch.testing.assert_close(by_hidden, expected[0])
    torch.testing.assert_close(by_part, expected[1][: len(part)])


def check_refusals():
    hidden, weight, _, targets, _ = problem(torch.float32)
    for options, message in (
        ({"first": 5, "vocabulary": VOCABULARY}, "rows 5 to 106 are outside a vocabulary of 101"),
        ({"first": 0, "vocabulary": 999, "targets": targets + 990}, "is outside a vocabulary of"),
    ):
        given = {"targets": targets, **options}
        for run in (parallel_linear_logprob, partial(parallel_linear_objective, objective=squares)):
            try:
                run(hidden, weight, **given)
            except ValueError as error:
                assert message in str(error)
            else:
                raise AssertionError("not refused")


def check_sharded():
    hidden, weight, _, targets, _ = problem(torch.float64)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    with torch.no_grad():  # every process has its own batch, as in data parallelism
        hidden.mul_(1 + dist.get_rank())
    for run in (
        lambda w: linear_logprob(hidden, w, targets).logps.sum(),
        lambda w: linear_objective(hidden, w, targets, lambda logps, rows: logps).loss,
    ):
        (expected,) = torch.autograd.grad(run(weight), weight)
        dist.all_reduce(expected)
        sharded = distribute_tensor(weight.detach(), mesh, [Shard(0)]).requires_grad_()
        found = torch.autograd.grad(run(sharded), sharded)[0]
        assert isinstance(found, DTensor) and found.placements == (Shard(0),)
        average = expected / dist.get_world_size()
        torch.testing.assert_close(found.full_tensor(), average)


def main(rank: int, world: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    check_slices(torch.float64, 3.0, True)
    check_slices(torch.float64, None, False)
    check_slices(torch.bfloat16, None, True)
    two_rounds = 720 * -(-VOCABULARY // world)
    nothing_stored = 300
    for trainable, budget in itertools.product(
        (False, True), (1 << 22, two_rounds, nothing_stored)
    ):
        check_sweep(torch.float64, trainable, budget, None, 0)
        check_sweep(torch.float64, trainable, budget, 3.0, 2)
        check_sweep(torch.bfloat16, trainable, budget, None, 0)
    check_sweep(torch.float16, True, 1 << 22, None, 0)
    check_work_and_communication(1 << 22, blocks=2)
    check_work_and_communication(two_rounds, blocks=3)
    check_empty()
    check_an_empty_slice()
    check_refusals()
    check_sharded()
    # What still holds the group is to go before it, or its threads may outlive it and abort.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
