"""A loss of per-token log-probabilities and its gradients in one sweep over the head.

With ``U = 2 n H V`` a loss and the hidden gradient cannot cost less than ``2U``, and ``3U`` with
the weight gradient. That bound is met where the loss is a sum of one term for each row: the term's
derivative is known as soon as the row is scored, so nothing is computed twice.

* Stored: blocks of rows keep their softmax weights ``[R, V]`` from scoring to gradients.
* Streamed: the probability-weighted sum of weight rows is carried along the tiles like the values
  of flash attention (Dao et al., arXiv 2205.14135, with ``K = V = W``), and no ``[R, V]`` exists.
  A frozen head needs no more; for a trainable one the backward pass computes the logits again, for
  ``U`` more. So it is where a budget is small, and where sums over several blocks would need a
  float32 copy of the weight gradient or be rounded block by block.
* Native: stored, in bfloat16 products on a CPU that has them (:mod:`grpoenv_kernels.native`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpoenv_kernels.adapter import LowRank, widen
from grpoenv_kernels.head import Gradients, Head, HeadOptions, Needs
from grpoenv_kernels.head_slice import HeadSlice, Share
from grpoenv_kernels.local_objective import Objective, Swept
from grpoenv_kernels.logprob import check_shapes, scored_rows, spread_rows
from grpoenv_kernels.native import is_native, sweep_native, weight_gradients
from grpoenv_kernels.passes import differentiate
from grpoenv_kernels.sharded import gather_sharded
from grpoenv_kernels.softmax_tile import Upstream
from grpoenv_kernels.stored import sweep_stored
from grpoenv_kernels.streamed import sweep_streamed
from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES

__all__ = ["Objective", "SweepPlan", "SweepResult", "linear_objective", "sweep_head"]


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


class SweepPlan(NamedTuple):
    """What a sweep is to do.

    Attributes:
        options: of the head.
        objective: see :func:`linear_objective`.
        entropy: return the entropies as well.
        budget: bytes of working memory, 0 for the device's own limit.
        graded: whether autograd is on.
        share: the columns that are here, ``None`` for all.

    """

    options: HeadOptions
    objective: Objective
    entropy: bool
    budget: int
    graded: bool
    share: Share | None = None

    def head(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        adapter: Tensor | None,
        targets: Tensor,
    ) -> Head:
        """Return the problem; ``targets`` ``[N]`` are positions in the whole vocabulary."""
        given, rest = (hidden, weight, bias, adapter), (self.options, self.budget)
        if self.share is None:
            return Head(*given, targets, *rest)
        return HeadSlice(*given, targets - self.share.first, *rest, self.share)


class _LinearObjective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        adapter: Tensor | None,
        targets: Tensor,
        plan: SweepPlan,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        head, rows = plan.head(hidden, weight, bias, adapter, targets), scored_rows(targets)
        found = _sweep(head, rows, plan, ctx.needs_input_grad[:4] if plan.graded else _NOTHING)
        ctx.save_for_backward(hidden, weight, bias, adapter, targets)
        ctx.plan, ctx.found = plan, found
        logps = spread_rows(found.scores.logps, rows, len(targets))
        if found.scores.entropies is None:
            ctx.mark_non_differentiable(logps)
            return found.loss.clone(), logps.clone(), None
        entropies = spread_rows(found.scores.entropies, rows, len(targets))
        ctx.mark_non_differentiable(logps, entropies)
        return found.loss.clone(), logps.clone(), entropies.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, adapter, targets = ctx.saved_tensors
        if upstream is None:
            return (None,) * 6
        rows, needs = scored_rows(targets), ctx.needs_input_grad[:4]
        head = ctx.plan.head(hidden, weight, bias, adapter, targets)
        found, ctx.found = ctx.found, None
        if found is None:  # the buffers went out with an earlier backward of a retained graph
            found = _sweep(head, rows, ctx.plan, needs)
        by_hidden, by_weight, by_bias, by_adapter = (
            _scaled(grad, upstream) for grad in found.gradients
        )
        if by_hidden is not None:
            by_hidden = spread_rows(by_hidden.to(hidden.dtype), rows, len(targets))
        if any(needs[1:]) and by_weight is None and by_bias is None and by_adapter is None:
            again = _recompute(head, rows, found, upstream, needs)
            by_weight, by_bias, by_adapter = again.weight, again.bias, again.adapter
        if by_bias is not None and bias is not None:
            by_bias = by_bias.to(bias.dtype)
        return by_hidden, by_weight, by_bias, by_adapter, None, None


_NOTHING = (False, False, False, False)


def _scaled(grad: Tensor | None, upstream: Tensor) -> Tensor | None:
    """Multiply ``grad`` in place, unless that changes nothing; only a CPU is asked whether."""
    if grad is None or (upstream.device.type == "cpu" and upstream.item() == 1):
        return grad
    return grad.mul_(upstream.to(grad.dtype))


def _sweep(head: Head, rows: Tensor, plan: SweepPlan, needs: Needs) -> Swept:
    run = sweep_stored if _stores(head, len(rows), needs) else sweep_streamed
    if any(needs) and _runs_native(head, len(rows)):
        run = sweep_native
    with torch.autocast(head.hidden.device.type, enabled=False):
        found = run(head, rows, plan.objective, plan.entropy, needs)
    if isinstance(head, HeadSlice) and found.gradients.hidden is not None:
        head.share.add_up(found.gradients.hidden)
    return found


def _recompute(head: Head, rows: Tensor, found: Swept, upstream: Tensor, needs: Needs) -> Gradients:
    live = found.by_logps.nonzero()[:, 0]
    by_logps = found.by_logps[live] * upstream.to(found.by_logps.dtype)
    take = weight_gradients if _runs_native(head, len(rows)) else differentiate
    with torch.autocast(head.hidden.device.type, enabled=False):
        return take(
            head,
            rows[live],
            found.scores.select(live),
            Upstream(by_logps, None),
            (False, *needs[1:]),
        )


def _runs_native(head: Head, rows: int) -> bool:
    whole = not isinstance(head, HeadSlice)
    return whole and is_native(head) and _kept_rows(head, rows) > 0


def _stores(head: Head, rows: int, needs: Needs) -> bool:
    _, weight, bias, adapter = needs
    if weight or adapter:
        # float16 cannot hold a gradient that a loss scaler has not yet scaled.
        return head.weight.dtype != torch.float16
    # With a frozen head rows without a coefficient skip their second product where all are stored;
    # several blocks of stored rows would cost more time than that saves.
    return bias or (needs[0] and _kept_rows(head, rows) >= rows)


def _kept_rows(head: Head, rows: int) -> int:
    return head.stored_plan(rows, None, adds=True).kept


def linear_objective(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    objective: Objective,
    *,
    bias: Tensor | None = None,
    low_rank: LowRank | None = None,
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
        low_rank: logits to be added, such as an adapter's, or ``None``.
        temperature: a positive number or a tensor ``[N]``.
        softcap: cap of the logits, or ``None``.
        logit_scale: factor on the logits before the cap.
        entropy: return the entropies as well (no gradient).
        budget_bytes: working memory for tiles and stored softmax weights, 0 for the device's own.

    Raises:
        ValueError: as :func:`grpoenv_kernels.linear_logprob`, and an objective that does not
            return one term for each row.

    The upstream gradient scales the result exactly, once. A row whose derivative is zero takes no
    part in the gradient products, except in the streamed sweep's hidden gradient. Deterministic, as
    ``linear_logprob`` is. An operator cannot take a function, so this is none: ``torch.compile``
    breaks its graph here and goes on behind.

    """
    options = HeadOptions(temperature, softcap, logit_scale)
    plan = SweepPlan(options, objective, entropy, budget_bytes, torch.is_grad_enabled())
    bias = None if bias is None else gather_sharded(bias)
    return sweep_head(hidden, gather_sharded(weight), bias, low_rank, targets, plan)


def sweep_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    low_rank: LowRank | None,
    targets: Tensor,
    plan: SweepPlan,
) -> SweepResult:
    """Sweep as the plan says; a compiler's graph breaks here."""
    run = _apply
    if torch.compiler.is_compiling():
        run = torch.compiler.disable(_apply)  # type: ignore[no-untyped-call]
    if low_rank is None:
        return run(hidden, weight, bias, None, targets, plan)
    return run(widen(hidden, weight, low_rank), weight, bias, low_rank.up, targets, plan)


def _apply(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    adapter: Tensor | None,
    targets: Tensor,
    plan: SweepPlan,
) -> SweepResult:
    vocabulary = None if plan.share is None else plan.share.vocabulary
    check_shapes(hidden, weight, targets, bias, adapter, vocabulary)
    apply: Callable[..., tuple[Tensor, Tensor, Tensor | None]] = _LinearObjective.apply
    return SweepResult(*apply(hidden, weight, bias, adapter, targets.long(), plan))
