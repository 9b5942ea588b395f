"""A sweep in bfloat16 products, for a CPU that multiplies bfloat16 at twice the rate of float32.

Such a product sums in float32 but its result is bfloat16. So that no partial sum is rounded, every
product here is taken over its whole length: the hidden gradient over all columns at once, from
stored logits ``[R, V]`` that become their gradients in place, and the weight gradient over all rows
at once. Where the logits of all rows do not fit the budget, those for the weight gradient are
computed again, for ``U`` more.

Logits are rounded to bfloat16, as plain PyTorch rounds them, but for the labels' own: a rounded
log-probability would give a rounded ratio. These are computed in float32 row by row.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, RowBlock
from grpoenv_kernels.local_objective import Objective, Swept, row_terms
from grpoenv_kernels.softmax_tile import (
    RowCoefficients,
    RowScores,
    RowSums,
    Upstream,
    fold_tile,
    gradient_tile,
    label_logits,
)
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["is_native", "sweep_native", "weight_gradients"]


def is_native(head: Head) -> bool:
    """Whether the problem is in bfloat16, on a CPU with instructions for it, and without more."""
    dtypes = {head.hidden.dtype, head.weight.dtype}
    return (
        dtypes == {torch.bfloat16}
        and head.weight.device.type == "cpu"
        and head.adapter is None
        and platform.machine() == "x86_64"
        and torch.cpu._is_avx512_bf16_supported()
    )


def sweep_native(
    head: Head, rows: Tensor, objective: Objective, entropy: bool, needs: Needs
) -> Swept:
    """Sweep the given rows as :func:`grpoenv_kernels.stored.sweep_stored` does.

    Weight and bias gradients are there only if all rows fit in one block.
    """
    plan = TilePlan.stored(len(rows), head.shape, 4, 2, head.limits)
    stored = head.empty(min(len(rows), plan.rows), head.shape[0], dtype=torch.bfloat16)
    total = Gradients(head.new_hidden_gradient(len(rows)) if needs[0] else None, None, None, None)
    losses, grads, found = head.empty(len(rows)), head.empty(len(rows)), []
    for span in row_ranges(len(rows), plan.rows):
        block, products = _block(head, rows[span]), stored[: span.stop - span.start]
        torch.mm(block.hidden, head.weight.t(), out=products)
        scores = _score(head, block, products, plan, entropy)
        losses[span], grads[span] = row_terms(objective, scores.logps, rows[span], graded=True)
        found.append(scores)
        live = grads[span].nonzero()[:, 0]
        block, upstream = block.select(live), Upstream(grads[span][live], None)
        coefficients = RowCoefficients.of(block, scores.select(live), upstream)
        by_logits = _differentiate(head, block, products, live, plan, coefficients)
        if total.hidden is not None:
            into = total.hidden[span].zero_()
            into[live] = torch.mm(by_logits, head.weight)
        if len(rows) <= plan.rows:
            weight = torch.mm(by_logits.t(), block.hidden) if needs[1] else None
            bias = by_logits.sum(0, dtype=head.dtype) if needs[2] else None
            total = total._replace(weight=weight, bias=bias)
    scores = RowScores.concatenate(found or [RowSums.start(0, head.empty(), entropy).scores()])
    return Swept(losses.sum(), scores, grads, total)


def _block(head: Head, rows: Tensor) -> RowBlock:
    inner, hidden = head.inner(rows), head.hidden[rows]
    return RowBlock(hidden, False, head.targets[rows], inner, head.outer(rows), head.slope(rows))


def _score(
    head: Head, block: RowBlock, products: Tensor, plan: TilePlan, entropy: bool
) -> RowScores:
    """Score a block from its products ``[R, V]``, which are left as they are."""
    size = len(block.targets)
    sums, scratch = RowSums.start(size, head.empty(), entropy), head.empty(size * plan.columns)
    spare = head.empty(size * plan.columns) if entropy else scratch
    for tile in plan.tiles(head.shape[0]):
        area, shape = size * (tile.stop - tile.start), (size, tile.stop - tile.start)
        product = scratch[:area].view(shape).copy_(products[:, tile])
        weights, bias = spare[:area].view(shape), head.biases(tile)
        fold_tile(product, weights, block, bias, tile.start, sums, keep=False)
    wide = head.label_rows(block.targets).mul_(block.hidden)
    at_label = None if head.bias is None else head.bias[block.targets].to(head.dtype)
    sums.label = label_logits(wide.sum(1), block, at_label)
    return sums.scores()


def _differentiate(
    head: Head,
    block: RowBlock,
    products: Tensor,
    live: Tensor,
    plan: TilePlan,
    coefficients: RowCoefficients,
) -> Tensor:
    """Overwrite the first rows of ``products`` with the gradients of the live rows ``[r, V]``.

    These are the gradients by the products, rounded to bfloat16 once.
    """
    whole, size = len(live) == len(products), len(live)
    scratch = head.empty(size * plan.columns)
    for tile in plan.tiles(head.shape[0]):
        shape = (size, tile.stop - tile.start)
        mine = products[:, tile] if whole else products[:, tile][live]
        product = scratch[: shape[0] * shape[1]].view(shape).copy_(mine)
        into, bias = products[:size, tile], head.biases(tile)
        gradient_tile(product, into, block, bias, tile.start, coefficients)
    return products[:size]


def weight_gradients(
    head: Head, rows: Tensor, scores: RowScores, upstream: Upstream, needs: Needs
) -> Gradients:
    """Compute the logits of ``rows`` again and return the weight and bias gradients.

    One tile of columns has the gradients of all rows at once.
    """
    plan, total = head.streaming_plan(len(rows)), head.new_gradients(0, (False, *needs[1:]))
    width = max(16, min(plan.columns, head.limits.budget // (8 * max(len(rows), 1))))
    hidden, spans = head.hidden[rows], list(row_ranges(len(rows), plan.rows))
    grads = hidden.new_empty(len(rows) * width)
    scratch, products = head.empty(plan.rows * width), hidden.new_empty(plan.rows * width)
    blocks = [_block(head, rows[span]) for span in spans]
    coefficients = [
        RowCoefficients.of(block, scores.select(span), upstream.select(span))
        for block, span in zip(blocks, spans, strict=True)
    ]
    for tile in TilePlan(plan.rows, width).tiles(head.shape[0]):
        weight, bias = head.weight[tile], head.biases(tile)
        grad = grads[: len(rows) * len(weight)].view(len(rows), len(weight))
        for span, block, own in zip(spans, blocks, coefficients, strict=True):
            shape = (len(block.targets), len(weight))
            area = shape[0] * shape[1]
            narrow = torch.mm(block.hidden, weight.t(), out=products[:area].view(shape))
            product = scratch[:area].view(shape).copy_(narrow)
            gradient_tile(product, grad[span], block, bias, tile.start, own)
        if total.weight is not None:
            torch.mm(grad.t(), hidden, out=total.weight[tile])
        if total.bias is not None:
            total.bias[tile] = grad.sum(0, dtype=head.dtype)
    return total
