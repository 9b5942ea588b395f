"""A head of which every process of a group has a slice of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpoenv_kernels.head import Head, HeadOptions
from grpoenv_kernels.logprob import TokenScores, check_shapes, scored_rows, spread_rows
from grpoenv_kernels.passes import differentiate, sum_rows
from grpoenv_kernels.softmax_tile import RowScores, RowSums, Upstream
from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES

__all__ = ["parallel_linear_logprob"]


class _ParallelLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        first: int,
        options: HeadOptions,
        entropy: bool,
        budget: int,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        rows, own = scored_rows(targets), targets - first
        head = Head(hidden, weight, bias, None, own, options, budget)
        with torch.autocast(hidden.device.type, enabled=False):
            found = _combine(sum_rows(head, rows, entropy), group).scores()
        ctx.save_for_backward(
            hidden, weight, bias, own, rows, found.logps, found.log_z, found.label, found.entropies
        )
        ctx.rest = (options, budget, group)
        logps = spread_rows(found.logps, rows, len(targets)).clone()
        if found.entropies is None:
            return logps, None
        return logps, spread_rows(found.entropies, rows, len(targets)).clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_logps: Tensor | None, by_entropies: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, own, rows, *columns = ctx.saved_tensors
        options, budget, group = ctx.rest
        head, scores = Head(hidden, weight, bias, None, own, options, budget), RowScores(*columns)
        zeros = hidden.new_zeros(len(rows), dtype=head.dtype)
        logps = zeros if by_logps is None else by_logps[rows].to(head.dtype)
        entropies = None if by_entropies is None else by_entropies[rows].to(head.dtype)
        live = (logps != 0 if entropies is None else (logps != 0) | (entropies != 0)).nonzero()[
            :, 0
        ]
        upstream, needs = Upstream(logps, entropies).select(live), ctx.needs_input_grad
        with torch.autocast(hidden.device.type, enabled=False):
            found = differentiate(
                head,
                rows[live],
                scores.select(live),
                upstream,
                (needs[0], needs[1], needs[2], False),
            )
        by_hidden = found.hidden
        if by_hidden is not None:
            dist.all_reduce(by_hidden, group=group)
            by_hidden = spread_rows(by_hidden.to(hidden.dtype), rows[live], len(own))
        return by_hidden, found.weight, found.bias, *(None,) * 6


def _combine(sums: RowSums, group: dist.ProcessGroup | None) -> RowSums:
    """Merge the sums of all processes, in the order of their ranks: the same bits everywhere."""
    entropy = sums.moment is not None
    rows = [sums.reference, sums.total, sums.label, *([sums.moment] if entropy else [])]
    mine = torch.stack([row for row in rows if row is not None])
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    parts = [RowSums(one[0], one[1], one[3] if entropy else None, one[2]) for one in everyone]
    for part in parts[1:]:
        parts[0].merge(part)
    return parts[0]


def parallel_linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    first: int,
    vocabulary: int,
    group: dist.ProcessGroup | None = None,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> TokenScores:
    """Score targets under a head of which every process has a slice of the vocabulary.

    Every process gives the same rows and gets the same results, to the bit. Forward communicates
    once, the statistics of the rows (3 numbers each, 4 with entropies); backward once, the sum of
    the hidden gradient, in the compute dtype. Gradients of weight and bias stay where they are.
    The upstream gradient must be the same in every process.

    Args:
        hidden: ``[N, H]``, the same in every process.
        weight: ``[C, H]``, this process's rows of the weight.
        targets: ``[N]`` positions in the whole vocabulary, negative where a row has no label.
        first: position of this process's first row in the whole vocabulary.
        vocabulary: size of the whole vocabulary; the slices must cover it without overlap.
        group: the processes, ``None`` for all.
        bias: ``[C]``, this process's part, or ``None``.
        temperature: as in :func:`grpoenv_kernels.linear_logprob`, like all that follow.
        softcap: cap of the logits, or ``None``.
        logit_scale: factor on the logits before the cap.
        entropy: compute the entropies as well.
        budget_bytes: working memory for tiles.

    Raises:
        ValueError: shapes that do not fit, a slice or a target outside the vocabulary.

    """
    if not 0 <= first <= first + weight.shape[0] <= vocabulary:
        raise ValueError(
            f"rows {first} to {first + weight.shape[0]} are outside a vocabulary of {vocabulary}"
        )
    check_shapes(hidden, weight, targets, bias, vocabulary=vocabulary)
    options = HeadOptions(temperature, softcap, logit_scale)
    apply: Callable[..., tuple[Tensor, Tensor | None]] = _ParallelLogprob.apply
    found = apply(
        hidden, weight, bias, targets.long(), first, options, entropy, budget_bytes, group
    )
    return TokenScores(*found)
