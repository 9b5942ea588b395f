"""The two passes over a head: scores of rows, and gradients from recomputed logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, RowBlock
from grpoenv_kernels.softmax_tile import RowScores, RowSums, Upstream, fold_tile, gradient_tile
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["differentiate", "score"]


def score(head: Head, rows: Tensor, entropy: bool, budget: int) -> RowScores:
    """Score the given rows (int64 ``[r]``): one pass over the vocabulary per block of rows."""
    plan = TilePlan.streaming(len(rows), head.shape, head.dtype.itemsize, budget)
    found = [
        _score_block(head, head.block(rows[span]), entropy, plan)
        for span in row_ranges(len(rows), plan.rows)
    ]
    if not found:
        return RowSums.start(0, head.empty(), entropy).scores()
    return RowScores.concatenate(found)


def _score_block(head: Head, block: RowBlock, entropy: bool, plan: TilePlan) -> RowScores:
    size = len(block.targets)
    sums = RowSums.start(size, head.empty(), entropy)
    scratch = head.empty(size * plan.columns)
    weights = head.empty(size * plan.columns) if entropy else scratch
    for tile in plan.tiles(head.shape[0]):
        area, shape = size * (tile.stop - tile.start), (size, tile.stop - tile.start)
        product = head.product(block, tile, head.columns(tile), scratch[:area].view(shape))
        fold_tile(product, weights[:area].view(shape), block, tile.start, sums, slope=False)
    return sums.scores()


def differentiate(
    head: Head,
    rows: Tensor,
    scores: RowScores,
    upstream: Upstream,
    needs: tuple[bool, bool, bool],
    budget: int,
) -> Gradients:
    """Recompute the logits of ``rows`` (int64 ``[r]``) tile by tile and return the gradients.

    The vocabulary is the outer loop: a slice of the weight gradient is summed over all rows in the
    compute dtype and rounded once, so no second ``[V, H]`` buffer exists at any input dtype.

    Args:
        head: the problem.
        rows: the rows that matter.
        scores: their results, each ``[r]``.
        upstream: their upstream gradients.
        needs: whether the gradient of hidden, weight, bias is needed.
        budget: bytes of working memory for tiles.

    """
    plan = TilePlan.streaming(len(rows), head.shape, head.dtype.itemsize, budget)
    block, total = head.block(rows), head.new_gradients(len(rows), needs)
    scratch = head.empty(plan.rows * plan.columns)
    for tile in plan.tiles(head.shape[0]):
        weight = head.columns(tile)
        sums = _TileSums.start(total, tile, weight)
        for span in row_ranges(len(rows), plan.rows):
            part = block.select(span)
            shape = (len(part.targets), len(weight))
            product = scratch[: shape[0] * shape[1]].view(shape)
            head.product(part, tile, weight, product)
            grad = gradient_tile(
                product, part, tile.start, scores.select(span), upstream.select(span)
            )
            if total.hidden is not None:
                into = total.hidden[span]
                torch.addmm(into, grad, weight, out=into)
            sums.add(grad, part)
        sums.store(total, tile)
    if total.hidden is not None:
        total.hidden.mul_(block.inner)
    return total


class _TileSums(NamedTuple):
    """Sums over rows for one vocabulary tile: ``[C, H]`` and ``[C]``, in the compute dtype."""

    weight: Tensor | None
    bias: Tensor | None

    @staticmethod
    def start(total: Gradients, tile: slice, like: Tensor) -> _TileSums:
        weight = None
        if total.weight is not None:
            own = total.weight.dtype == like.dtype
            weight = total.weight[tile].zero_() if own else torch.zeros_like(like)
        bias = None if total.bias is None else like.new_zeros(len(like))
        return _TileSums(weight, bias)

    def add(self, grad: Tensor, part: RowBlock) -> None:
        if self.weight is not None:
            torch.addmm(self.weight, grad.t(), part.hidden, out=self.weight)
        if self.bias is not None:
            self.bias.addmv_(grad.t(), part.inner[:, 0])

    def store(self, total: Gradients, tile: slice) -> None:
        if total.weight is not None and self.weight is not None:
            _copy(self.weight, total.weight[tile])
        if total.bias is not None and self.bias is not None:
            _copy(self.bias, total.bias[tile])


def _copy(values: Tensor, into: Tensor) -> None:
    if values.data_ptr() != into.data_ptr():
        into.copy_(values)
