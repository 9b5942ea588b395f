"""A head of which every process of a group has a slice of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpoenv_kernels.adapter import LowRank
from grpoenv_kernels.head import HeadOptions
from grpoenv_kernels.head_slice import HeadSlice, Share
from grpoenv_kernels.logprob import TokenScores, check_shapes, scored_rows, spread_rows
from grpoenv_kernels.passes import differentiate, score
from grpoenv_kernels.softmax_tile import RowScores, Upstream
from grpoenv_kernels.sweep import Objective, SweepPlan, SweepResult, sweep_head
from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES

__all__ = ["parallel_linear_logprob", "parallel_linear_objective"]


class _ParallelLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        share: Share,
        options: HeadOptions,
        entropy: bool,
        budget: int,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        rows, own = scored_rows(targets), targets - share.first
        head = HeadSlice(hidden, weight, bias, None, own, options, budget, share)
        with torch.autocast(hidden.device.type, enabled=False):
            found = score(head, rows, entropy)
        ctx.save_for_backward(
            hidden, weight, bias, own, rows, found.logps, found.log_z, found.label, found.entropies
        )
        ctx.rest = (options, budget, share)
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
        head, scores = (
            HeadSlice(hidden, weight, bias, None, own, *ctx.rest),
            RowScores(*columns),
        )
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
            by_hidden = head.share.add_up(by_hidden).to(hidden.dtype)
            by_hidden = spread_rows(by_hidden, rows[live], len(own))
        return by_hidden, found.weight, found.bias, *(None,) * 5


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
    share = Share(first, vocabulary, group)
    share.check(weight)
    check_shapes(hidden, weight, targets, bias, vocabulary=vocabulary)
    options = HeadOptions(temperature, softcap, logit_scale)
    apply: Callable[..., tuple[Tensor, Tensor | None]] = _ParallelLogprob.apply
    found = apply(hidden, weight, bias, targets.long(), share, options, entropy, budget_bytes)
    return TokenScores(*found)


def parallel_linear_objective(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    objective: Objective,
    *,
    first: int,
    vocabulary: int,
    group: dist.ProcessGroup | None = None,
    bias: Tensor | None = None,
    low_rank: LowRank | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> SweepResult:
    """Sum ``objective`` over the rows and prepare its gradients in the same sweep.

    As :func:`grpoenv_kernels.linear_objective`, under a head of which every process has a slice of
    the vocabulary. Each computes its columns' share of the products once: ``2U`` with a frozen
    head, ``3U`` with a trainable one, over all processes. A block of rows communicates once, the
    statistics of its rows (3 numbers each, 4 with entropies); with gradients the sweep ends with
    the sum of the hidden gradient, in the compute dtype. Backward communicates nothing, unless a
    retained graph is differentiated again, which sweeps again.

    Every process gives the same rows, objective, dtypes and options, and asks for the gradients of
    the same arguments; it gets the same loss, to the bit, and must give it the same upstream
    gradient. The gradients of weight, bias and ``low_rank.up`` are those of its slice.

    Args:
        hidden: ``[N, H]``, the same in every process.
        weight: ``[C, H]``, this process's rows of the weight.
        targets: ``[N]`` positions in the whole vocabulary, negative where a row has no label.
        objective: called as ``objective(logps, rows)``; it must give the same in every process.
        first: position of this process's first row in the whole vocabulary.
        vocabulary: size of the whole vocabulary; the slices must cover it without overlap.
        group: the processes, ``None`` for all.
        bias: ``[C]``, this process's part, or ``None``.
        low_rank: logits to be added, of which ``rows`` are the same in every process and ``up`` is
            this process's part, or ``None``.
        temperature: as in :func:`grpoenv_kernels.linear_objective`, like all that follow.
        softcap: cap of the logits, or ``None``.
        logit_scale: factor on the logits before the cap.
        entropy: return the entropies as well (no gradient).
        budget_bytes: working memory, for equal slices.

    Raises:
        ValueError: shapes that do not fit, a slice or a target outside the vocabulary, and an
            objective that does not return one term for each row.

    """
    share = Share(first, vocabulary, group)
    share.check(weight)
    options = HeadOptions(temperature, softcap, logit_scale)
    graded = torch.is_grad_enabled()
    plan = SweepPlan(options, objective, entropy, budget_bytes, graded, share)
    return sweep_head(hidden, weight, bias, low_rank, targets, plan)
