"""The two passes over a head: scores of rows, and gradients from recomputed logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, RowBlock, accumulate, area, multiply
from grpoenv_kernels.softmax_tile import (
    RowCoefficients,
    RowScores,
    RowSums,
    Upstream,
    fold_tile,
    gradient_tile,
)
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["Recomputed", "TileSums", "differentiate", "score"]


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
    plan, unit = head.streaming_plan(len(rows)), _unit(head, rows, upstream)
    spans = list(row_ranges(len(rows), plan.rows))
    total = head.new_gradients(len(rows), needs)
    parts = [
        Recomputed.of(head, rows[span], scores.select(span), upstream.select(span).times(unit))
        for span in spans
    ]
    products = head.empty(plan.rows * plan.columns)
    grads = products if head.folds else head.empty(len(products), dtype=head.operand)
    for tile in plan.tiles(head.shape[0]):
        weight, bias = head.columns(tile), head.biases(tile)
        sums = TileSums.start(total, tile, head, fresh=True)
        for span, part in zip(spans, parts, strict=True):
            grad, own = part.gradient(head, tile, weight, bias, products, grads)
            if total.hidden is not None:
                accumulate(total.hidden[span], grad, weight)
            sums.add(grad, own.hidden, own.weighing())
        sums.store(None if head.folds else 1 / unit)
    if total.hidden is not None:
        total.hidden.mul_(head.inner(rows) if head.folds else 1 / unit)
    return total


@dataclass(frozen=True)
class Recomputed:
    """Rows (int64 ``[r]``) whose logits are computed again, and what their gradients are made of."""

    rows: Tensor
    coefficients: RowCoefficients

    @staticmethod
    def of(head: Head, rows: Tensor, scores: RowScores, upstream: Upstream) -> Recomputed:
        """Combine scores and upstream gradients of the rows."""
        return Recomputed(rows, RowCoefficients.of(head.block(rows), scores, upstream))

    def gradient(
        self,
        head: Head,
        tile: slice,
        columns: Tensor,
        bias: Tensor | None,
        products: Tensor,
        grads: Tensor,
    ) -> tuple[Tensor, RowBlock]:
        """Return the gradients by one tile of products, ``[r, C]`` as an operand, and the rows.

        ``columns`` ``[C, H]`` and ``bias`` are those of the tile; ``products`` and ``grads`` are
        flat scratch memory, which may be the same if their dtype is.
        """
        block, width = head.block(self.rows), len(columns)
        product = area(products, len(self.rows), width)
        into = product if head.folds else area(grads, len(self.rows), width)
        multiply(block.hidden, columns.t(), product)
        return gradient_tile(product, into, block, bias, tile.start, self.coefficients), block


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


@dataclass
class TileSums:
    """Sums over rows for one vocabulary tile, in the compute dtype, rounded once when stored.

    Attributes:
        columns: ``[C, h]`` sums for the weight or the adapter, where they go, and their columns of
            the hidden rows.
        bias: ``[C]``, and where it goes.
        empty: whether nothing was added yet, and the sums are uninitialised.

    """

    columns: list[tuple[Tensor, Tensor, slice]]
    bias: tuple[Tensor, Tensor] | None
    empty: bool

    @staticmethod
    def start(total: Gradients, tile: slice, head: Head, fresh: bool) -> TileSums:
        """Start on top of what ``total`` has, or on nothing if that is ``fresh``.

        Only gradients in the compute dtype can be added to.
        """
        columns = []
        for whole, part in total.columns():
            into = whole[tile]
            columns.append(
                (into if into.dtype == head.dtype else head.empty(*into.shape), into, part)
            )
        bias = None
        if total.bias is not None:
            into = total.bias[tile]
            bias = (torch.zeros_like(into, dtype=head.dtype), into)
            if not fresh:
                bias[0].copy_(into)
        return TileSums(columns, bias, fresh)

    def add(self, grad: Tensor, hidden: Tensor, weighing: Tensor) -> None:
        """Add ``grad' @ hidden`` of rows, ``[r, C]`` and ``[r, H]``, and ``grad' @ weighing``."""
        for own, _, part in self.columns:
            if self.empty:
                multiply(grad.t(), hidden[:, part], own)
            else:
                accumulate(own, grad.t(), hidden[:, part])
        if self.bias is not None:
            self.bias[0].addmv_(grad.t().to(weighing.dtype), weighing)
        self.empty = False

    def add_rows(self, local: Tensor, hidden: Tensor, weighing: Tensor) -> None:
        """Add one row ``[H]`` of ``hidden`` to each of the columns ``local``, after an `add`."""
        for own, _, part in self.columns:
            own.index_add_(0, local, hidden[:, part])
        if self.bias is not None:
            self.bias[0].index_add_(0, local, weighing)

    def store(self, factor: Tensor | None = None) -> None:
        """Write the sums, times ``factor``, to where they go."""
        for own, into, _ in self.columns:
            if self.empty:
                own.zero_()
            if factor is not None:
                own.mul_(factor)
            if own is not into:
                into.copy_(own)
        if self.bias is not None:
            own, into = self.bias
            into.copy_(own if factor is None else own * factor)
