"""What each process of a gloo group checks; test_parallel_heads.py starts them."""

from __future__ import annotations

import gc
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from grpoenv_kernels import linear_logprob, linear_objective, parallel_linear_logprob

ROWS, WIDTH, VOCABULARY = 13, 8, 101


def problem(dtype):
    torch.manual_seed(11)
    hidden = torch.randn(ROWS, WIDTH, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, dtype=dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (ROWS,))
    targets[3] = -100
    return hidden, weight, bias, targets, torch.rand(ROWS) + 0.5


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
    # Uneven slices, of which the last process's is the smallest.
    sizes = [60, 40, 1] if dist.get_world_size() == 3 else [93, 8]
    first = sum(sizes[: dist.get_rank()])
    mine = slice(first, first + sizes[dist.get_rank()])
    part, part_bias = (each.detach()[mine].requires_grad_() for each in (weight, bias))
    found = parallel_linear_logprob(
        hidden, part, targets, first=first, vocabulary=VOCABULARY, bias=part_bias,
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
    everyone = [torch.empty_like(found.logps) for _ in sizes]
    dist.all_gather(everyone, found.logps.detach())
    assert all(torch.equal(one, found.logps) for one in everyone)


def check_empty():
    hidden, weight, *_ = problem(torch.float32)
    found = parallel_linear_logprob(
        hidden[:0], weight, torch.zeros(0, dtype=torch.long), first=0, vocabulary=VOCABULARY
    )
    assert found.logps.shape == (0,)
    found.logps.sum().backward()
    assert not hidden.grad.any() and not weight.grad.any()


def check_refusals():
    hidden, weight, _, targets, _ = problem(torch.float32)
    for options, message in (
        ({"first": 5, "vocabulary": VOCABULARY}, "rows 5 to 106 are outside a vocabulary of 101"),
        ({"first": 0, "vocabulary": 999, "targets": targets + 990}, "is outside a vocabulary of"),
    ):
        try:
            parallel_linear_logprob(hidden, weight, **{"targets": targets, **options})
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
    check_empty()
    check_refusals()
    check_sharded()
    # What still holds the group is to go before it, or its threads may outlive it and abort.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
