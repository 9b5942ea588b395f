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
from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, RowBlock, area
from grpoenv_kernels.local_objective import Objective, Swept, row_terms
from grpoenv_kernels.softmax_tile import (
    RowCoefficients,
    RowScores,
    RowSums,
    Upstream,
    fold_tile,
    gradient_tile,
    label_logits,
    label_slope,
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
    found = [_Found.nothing(head, entropy)]
    for span in row_ranges(len(rows), plan.rows):
        block, products = _block(head, rows[span]), stored[: span.stop - span.start]
        torch.mm(block.hidden, head.weight.t(), out=products)
        found.append(_differentiate(head, block, products, rows[span], objective, entropy))
        live = found[-1].grads.nonzero()[:, 0]
        by_logits = products[: len(live)]
        if total.hidden is not None:
            into = total.hidden[span].zero_()
            into[live] = torch.mm(by_logits, head.weight)
        if len(rows) <= plan.rows:
            weight = torch.mm(by_logits.t(), block.hidden[live]) if needs[1] else None
            bias = by_logits.sum(0, dtype=head.dtype) if needs[2] else None
            total = total._replace(weight=weight, bias=bias)
    whole = _Found.concatenate(found)
    return Swept(whole.terms.sum(), whole.scores, whole.grads, total)


class _Found(NamedTuple):
    """Terms of the objective, scores, and derivatives by the log-probabilities of ``R`` rows."""

    terms: Tensor
    scores: RowScores
    grads: Tensor

    @staticmethod
    def nothing(head: Head, entropy: bool) -> _Found:
        none = head.empty()
        return _Found(none, RowSums.start(0, none, entropy).scores(), none)

    @staticmethod
    def concatenate(parts: list[_Found]) -> _Found:
        terms, scores, grads = zip(*parts, strict=True)
        return _Found(torch.cat(terms), RowScores.concatenate(scores), torch.cat(grads))


def _block(head: Head, rows: Tensor) -> RowBlock:
    inner, hidden = head.inner(rows), head.hidden[rows]
    return RowBlock(hidden, False, head.targets[rows], inner, head.outer(rows), head.slope(rows))


def _label_logits(head: Head, block: RowBlock) -> Tensor:
    wide = head.label_rows(block.targets).mul_(block.hidden)
    at_label = None if head.bias is None else head.bias[block.targets].to(head.dtype)
    return label_logits(wide.sum(1), block, at_label)


def _differentiate(
    head: Head,
    block: RowBlock,
    products: Tensor,
    rows: Tensor,
    objective: Objective,
    entropy: bool,
) -> _Found:
    """Score rows by their products ``[R, V]``, and overwrite these with the gradients by them.

    Those of the rows with a derivative come first, without gaps. A few whole rows at a time go
    through the cache, so that each gradient is made from unrounded weights and rounded once.
    """
    size, vocabulary = products.shape
    most = max(1, min(size, head.limits.tile_elements(head.dtype.itemsize) // vocabulary))
    scratch = head.empty(most * vocabulary)
    spare = torch.empty_like(scratch) if entropy else scratch
    bias, labels = head.biases(slice(None)), _label_logits(head, block)
    found, filled = [_Found.nothing(head, entropy)], 0
    for span in row_ranges(size, most):
        few, sums = block.select(span), RowSums.start(span.stop - span.start, scratch, entropy)
        logits = area(scratch, len(few.targets), vocabulary).copy_(products[span])
        weights = area(spare, len(few.targets), vocabulary)
        fold_tile(logits, weights, few, bias, 0, sums, keep=True)
        sums.label = labels[span]
        scores = sums.scores()
        terms, grads = row_terms(objective, scores.logps, rows[span], graded=True)
        found.append(_Found(terms, scores, grads))
        live = grads.nonzero()[:, 0]
        if not len(live):
            continue
        if len(live) < len(grads):
            few, scores, weights = few.select(live), scores.select(live), weights[live]
        coefficients = RowCoefficients.of(few, scores, Upstream(grads[live], None))
        scale = coefficients.level * torch.exp2(sums.reference[live] - scores.log_z)
        weights.mul_(scale[:, None])
        by_label = coefficients.label * label_slope(scores, few)
        weights[torch.arange(len(live)), few.targets] = by_label
        products[filled : filled + len(live)] = weights
        filled += len(live)
    return _Found.concatenate(found)


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
