"""A loss of per-token log-probabilities and its gradients in one sweep over the head.

With ``U = 2 n H V`` a loss and the hidden gradient cannot cost less than ``2U``, and ``3U`` with
the weight gradient. That bound is met where the loss is a sum of one term for each row: the term's
derivative is known as soon as the row is scored, so nothing is computed twice.

* Trainable head: blocks of rows keep their softmax weights ``[R, V]`` from scoring to gradients.
* Frozen head with a large vocabulary: the probability-weighted sum of weight rows is carried along
  the tiles like the values of flash attention (Dao et al., arXiv 2205.14135, with ``K = V = W``),
  and no ``[R, V]`` exists.
* Neither fits the budget: two phases, ``linear_logprob`` and its backward, for ``U`` more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpoenv_kernels.head import Gradients, Head, HeadOptions
from grpoenv_kernels.logprob import check_shapes, linear_logprob, scored_rows, spread_rows
from grpoenv_kernels.softmax_tile import RowScores
from grpoenv_kernels.stored import sweep_stored
from grpoenv_kernels.streamed import sweep_streamed
from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES, MIN_STORED_ROWS, TilePlan

__all__ = ["Objective", "SweepResult", "linear_objective"]

Objective = Callable[[Tensor, Tensor], Tensor]

# A frozen head runs as fast streamed as stored from this many rows on; stored blocks then have the
# advantage that rows without a coefficient skip their second product.
_FULL_RATE_ROWS = 512


class SweepResult(NamedTuple):
    """What one sweep found.

    Attributes:
        loss: scalar, the sum of the objective over the rows; differentiable.
        logps: ``[N]``, log-probabilities in nats, 0 in rows without a label; no gradient.
        entropies: ``[N]`` in nats, or ``None``; no gradient.

    """

    loss: Tensor
    logps: Tensor
    entropies: Tensor | None


class _Plan(NamedTuple):
    options: HeadOptions
    objective: Objective
    entropy: bool
    budget: int


class _LinearObjective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        head, rows = Head(hidden, weight, bias, targets, plan.options), scored_rows(targets)
        loss, scores, ctx.found = _sweep(head, rows, plan, ctx.needs_input_grad[:3])
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.plan = plan
        logps = spread_rows(scores.logps, rows, len(targets))
        if scores.entropies is None:
            ctx.mark_non_differentiable(logps)
            return loss, logps, None
        entropies = spread_rows(scores.entropies, rows, len(targets))
        ctx.mark_non_differentiable(logps, entropies)
        return loss, logps, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        if upstream is None:
            return (None,) * 5
        rows = scored_rows(targets)
        found, ctx.found = ctx.found, None
        if found is None:  # the buffers went out with an earlier backward of a retained graph
            head = Head(hidden, weight, bias, targets, ctx.plan.options)
            found = _sweep(head, rows, ctx.plan, ctx.needs_input_grad[:3])[2]
        by_hidden, by_weight, by_bias = (
            None if grad is None else grad.mul_(upstream.to(grad.dtype)) for grad in found
        )
        if by_hidden is not None:
            by_hidden = spread_rows(by_hidden.to(hidden.dtype), rows, len(targets))
        if by_bias is not None and bias is not None:
            by_bias = by_bias.to(bias.dtype)
        return by_hidden, by_weight, by_bias, None, None


def _sweep(
    head: Head, rows: Tensor, plan: _Plan, needs: tuple[bool, bool, bool]
) -> tuple[Tensor, RowScores, Gradients]:
    run = sweep_streamed if _streams(head, len(rows), plan.budget, needs) else sweep_stored
    with torch.autocast(head.hidden.device.type, enabled=False):
        return run(head, rows, plan.objective, plan.entropy, needs, plan.budget)


def _streams(head: Head, rows: int, budget: int, needs: tuple[bool, bool, bool]) -> bool:
    stored = TilePlan.stored(rows, head.shape, head.dtype.itemsize, budget).rows
    return not (needs[1] or needs[2]) and stored < min(rows, _FULL_RATE_ROWS)


def _sweeps_once(head: Head, rows: int, budget: int, needs: tuple[bool, bool, bool]) -> bool:
    """Whether one sweep can hold what it needs; otherwise the logits are computed twice."""
    if not (needs[1] or needs[2]):
        return needs[0]
    stored = TilePlan.stored(rows, head.shape, head.dtype.itemsize, budget).rows
    if needs[1] and head.weight.dtype == torch.float16:
        return False  # its range cannot hold a gradient that a loss scaler has not yet scaled
    if needs[1] and head.weight.dtype != head.dtype:
        return stored >= rows  # a second block would need a second weight gradient, in float32
    return stored >= min(rows, MIN_STORED_ROWS)


def _apply(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: _Plan
) -> SweepResult:
    apply: Callable[..., tuple[Tensor, Tensor, Tensor | None]] = _LinearObjective.apply
    return SweepResult(*apply(hidden, weight, bias, targets, plan))


def linear_objective(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    objective: Objective,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> SweepResult:
    """Sum ``objective`` over the rows and prepare its gradients in the same sweep.

    Args:
        hidden: ``[N, H]``, and so on as in :func:`grpoenv_kernels.linear_logprob`.
        weight: ``[V, H]``.
        targets: ``[N]``, negative where a row has no label.
        objective: called as ``objective(logps, rows)`` with the log-probabilities ``[R]`` of a
            block and the positions ``[R]`` of its rows; returns ``[R]`` terms, of which each may
            depend on its own log-probability only, differentiably. It is called once for each
            block, in any partition of the rows.
        bias: ``[V]`` or ``None``.
        temperature: a positive number or a tensor ``[N]``.
        softcap: cap of the logits, or ``None``.
        logit_scale: factor on the logits before the cap.
        entropy: return the entropies as well (no gradient).
        budget_bytes: working memory for tiles and stored softmax weights.

    Raises:
        ValueError: as :func:`grpoenv_kernels.linear_logprob`, and an objective that does not
            return one term for each row.

    The upstream gradient scales the result exactly, once. A row whose derivative is zero takes no
    part in the gradient products, except in the streamed sweep of a frozen head.

    """
    check_shapes(hidden, weight, targets, bias)
    targets, options = targets.long(), HeadOptions(temperature, softcap, logit_scale)
    graded = torch.is_grad_enabled()
    needs = (
        graded and hidden.requires_grad,
        graded and weight.requires_grad,
        graded and bias is not None and bias.requires_grad,
    )
    head, rows = Head(hidden, weight, bias, targets, options), scored_rows(targets)
    if _sweeps_once(head, len(rows), budget_bytes, needs):
        plan = _Plan(options, objective, entropy, budget_bytes)
        return _apply(hidden, weight, bias, targets, plan)
    scores = linear_logprob(
        hidden,
        weight,
        targets,
        bias=bias,
        temperature=temperature,
        softcap=softcap,
        logit_scale=logit_scale,
        entropy=entropy,
        budget_bytes=budget_bytes,
    )
    entropies = None if scores.entropies is None else scores.entropies.detach()
    return SweepResult(objective(scores.logps[rows], rows).sum(), scores.logps.detach(), entropies)
