"""The two passes over a head: scores of rows, and gradients from recomputed logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, RowBlock, accumulate, multiply
from grpoenv_kernels.softmax_tile import (
    RowCoefficients,
    RowScores,
    RowSums,
    Upstream,
    fold_tile,
    gradient_tile,
)
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["differentiate", "score"]


def score(head: Head, rows: Tensor, entropy: bool) -> RowScores:
    """Score the given rows (int64 ``[r]``): one pass over the vocabulary per block of rows."""
    return head.close(_sum_rows(head, rows, entropy))


def _sum_rows(head: Head, rows: Tensor, entropy: bool) -> RowSums:
    """Return the sums over the head's columns that the scores of the rows follow from."""
    plan = head.streaming_plan(len(rows))
    spans = row_ranges(len(rows), plan.rows)
    found = [_sum_block(head, head.block(rows[span]), entropy, plan) for span in spans]
    return RowSums.concatenate(found or [RowSums.start(0, head.empty(), entropy)])


def _sum_block(head: Head, block: RowBlock, entropy: bool, plan: TilePlan) -> RowSums:
    size = len(block.targets)
    sums = RowSums.start(size, head.empty(), entropy)
    scratch = head.empty(size * plan.columns)
    weights = head.empty(size * plan.columns) if entropy else scratch
    for tile in plan.tiles(head.shape[0]):
        area, shape = size * (tile.stop - tile.start), (size, tile.stop - tile.start)
        product = scratch[:area].view(shape)
        multiply(block.hidden, head.columns(tile).t(), product)
        into, bias = weights[:area].view(shape), head.biases(tile)
        fold_tile(product, into, block, bias, tile.start, sums, keep=False)
    return sums


def differentiate(
    head: Head,
    rows: Tensor,
    scores: RowScores,
    upstream: Upstream,
    needs: Needs,
) -> Gradients:
    """Recompute the logits of ``rows`` (int64 ``[r]``) tile by tile and return the gradients.

    The vocabulary is the outer loop: a slice of the weight gradient is summed over all rows in the
    compute dtype and rounded once, so no second ``[V, H]`` buffer exists at any input dtype.

    Args:
        head: the problem.
        rows: the rows that matter.
        scores: their results, each ``[r]``.
        upstream: their upstream gradients.
        needs: which gradients are needed.

    """
    plan = head.streaming_plan(len(rows))
    spans = list(row_ranges(len(rows), plan.rows))
    total, unit = head.new_gradients(len(rows), needs), _unit(head, rows, upstream)
    coefficients = [
        RowCoefficients.of(
            head.block(rows[span]), scores.select(span), upstream.select(span).times(unit)
        )
        for span in spans
    ]
    scratch = head.empty(plan.rows * plan.columns)
    grads = scratch if head.folds else head.empty(len(scratch), dtype=head.operand)
    for tile in plan.tiles(head.shape[0]):
        weight, bias = head.columns(tile), head.biases(tile)
        sums = _TileSums.start(total, tile, head)
        for span, own in zip(spans, coefficients, strict=True):
            part = head.block(rows[span])
            area, shape = len(part.targets) * len(weight), (len(part.targets), len(weight))
            product, grad = scratch[:area].view(shape), grads[:area].view(shape)
            multiply(part.hidden, weight.t(), product)
            gradient_tile(product, grad, part, bias, tile.start, own)
            if total.hidden is not None:
                accumulate(total.hidden[span], grad, weight)
            sums.add(grad, part)
        sums.store(total, tile, unit)
    if total.hidden is not None:
        total.hidden.mul_(head.inner(rows) if head.folds else 1 / unit)
    return total


def _unit(head: Head, rows: Tensor, upstream: Upstream) -> Tensor:
    """Return the power of two that brings gradients into the range of float16 operands.

    A gradient by a logit is at most about ten times its row's upstream gradient. The largest of
    these becomes ``2 ** 8``: neither does a loss scaler's 65536 overflow nor a probability of
    ``1 / V`` go under. 1 for other operands.
    """
    ones = upstream.logps.new_ones(())
    if head.operand != torch.float16 or not len(rows):
        return ones
    size = upstream.logps.abs()
    if upstream.entropies is not None:
        size = size + upstream.entropies.abs()
    largest = (size[:, None] * head.inner(rows).abs() * head.slope(rows).abs()).amax()
    exponent = 8 - torch.where(largest > 0, largest, ones).log2().ceil()
    return torch.exp2(exponent.clamp(-100, 100))


class _TileSums(NamedTuple):
    """Sums over rows for one vocabulary tile, in the compute dtype.

    Attributes:
        columns: ``[C, h]`` sums for the weight or the adapter, where they go, and their columns of
            the hidden rows.
        bias: ``[C]``.

    """

    columns: list[tuple[Tensor, Tensor, slice]]
    bias: Tensor | None

    @staticmethod
    def start(total: Gradients, tile: slice, head: Head) -> _TileSums:
        columns = []
        for whole, part in total.columns():
            into = whole[tile]
            own = into if into.dtype == head.dtype else head.empty(*into.shape)
            columns.append((own.zero_(), into, part))
        bias = None if total.bias is None else head.empty(tile.stop - tile.start).zero_()
        return _TileSums(columns, bias)

    def add(self, grad: Tensor, part: RowBlock) -> None:
        for own, _, columns in self.columns:
            accumulate(own, grad.t(), part.hidden[:, columns])
        if self.bias is not None:
            rows = part.inner[:, 0] if part.folded else torch.ones_like(part.inner[:, 0])
            self.bias.addmv_(grad.t().to(rows.dtype), rows)

    def store(self, total: Gradients, tile: slice, unit: Tensor) -> None:
        for own, into, _ in self.columns:
            if own is not into:
                into.copy_(own.div_(unit))
        if total.bias is not None and self.bias is not None:
            total.bias[tile] = self.bias / unit
