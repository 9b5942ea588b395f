"""One sweep for a trainable head: a block of rows keeps its softmax weights until its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, RowBlock
from grpoenv_kernels.local_objective import row_terms
from grpoenv_kernels.softmax_tile import (
    RowScores,
    RowSums,
    fold_tile,
    label_slope,
    labels_inside,
)
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["sweep_stored"]


def sweep_stored(
    head: Head,
    rows: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    entropy: bool,
    needs: tuple[bool, bool, bool],
    budget: int,
) -> tuple[Tensor, RowScores, Gradients]:
    """Return loss, scores ``[n]`` and the gradients of the given rows.

    Rows with a zero derivative cost ``U``, the others ``2U`` or, with the weight gradient, ``3U``.
    The bias gradient comes in the compute dtype. A weight that is not in the compute dtype must
    fit in one block.
    """
    plan = TilePlan.stored(len(rows), head.shape, head.dtype.itemsize, budget)
    store = _Store.allocate(head, plan, len(rows), entropy)
    total = _start(head, len(rows), needs)
    losses, found, fresh = head.empty(len(rows)), [], True
    for span in row_ranges(len(rows), plan.rows):
        block = head.block(rows[span])
        scores = store.fill(head, block)
        losses[span], grad = row_terms(objective, scores.logps, rows[span])
        found.append(scores)
        live = grad.nonzero()[:, 0]
        if len(live):
            into = None if total.hidden is None else total.hidden[span]
            _add_gradients(head, store, _Live(block, scores, grad, live), total, into, fresh)
            fresh = False
    if fresh and total.weight is not None:
        total.weight.zero_()
    if not found:
        found.append(RowSums.start(0, head.empty(), entropy).scores())
    return losses.sum(), RowScores.concatenate(found), total


def _start(head: Head, rows: int, needs: tuple[bool, bool, bool]) -> Gradients:
    total = head.new_gradients(rows, needs)
    bias = None if total.bias is None else head.empty(head.shape[0]).zero_()
    return Gradients(total.hidden, total.weight, bias)


@dataclass
class _Store:
    """Softmax weights of one block, tile after tile, each relative to its tile's own peak."""

    plan: TilePlan
    weights: Tensor
    scratch: Tensor
    tiles: list[slice]
    peaks: list[Tensor]
    entropy: bool

    @staticmethod
    def allocate(head: Head, plan: TilePlan, rows: int, entropy: bool) -> _Store:
        used = min(rows, plan.rows)
        weights, scratch = head.empty(used * head.shape[0]), head.empty(used * plan.columns)
        return _Store(plan, weights, scratch, list(plan.tiles(head.shape[0])), [], entropy)

    def tile(self, index: int, rows: int) -> Tensor:
        """Return the weights ``[rows, C]`` of one tile."""
        tile = self.tiles[index]
        return self.weights[tile.start * rows : tile.stop * rows].view(rows, -1)

    def fill(self, head: Head, block: RowBlock) -> RowScores:
        """Score a block, replacing what was stored."""
        rows = len(block.targets)
        sums, self.peaks = RowSums.start(rows, head.empty(), self.entropy), []
        for index, tile in enumerate(self.tiles):
            width = tile.stop - tile.start
            product = self.scratch[: rows * width].view(rows, width)
            head.product(block, tile, head.columns(tile), product)
            into = self.tile(index, rows)
            self.peaks.append(fold_tile(product, into, block, tile.start, sums, slope=True)[0])
        return sums.scores()


class _Live:
    """The rows of a block that have a gradient, with what the gradient needs.

    Attributes:
        rows: their positions in the block, or ``None`` if they are all of it.
        size: rows of the whole block.
        others: ``[r, 1]``, coefficient on the softmax weights, less the peak's factor.
        label: ``[r, 1]``, coefficient of the label's own column.

    """

    def __init__(self, block: RowBlock, scores: RowScores, grad: Tensor, live: Tensor) -> None:
        self.size = len(grad)
        self.rows = None if len(live) == self.size else live
        if self.rows is not None:
            block, scores, grad = block.select(live), scores.select(live), grad[live]
        self.block, self.log_z = block, scores.log_z
        grad = grad * block.slope[:, 0]
        self.others = -grad[:, None]
        self.label = (-torch.expm1(scores.logps) * label_slope(scores, block) * grad)[:, None]

    def take(self, values: Tensor) -> Tensor:
        """Return the live rows of a tensor that has all rows of the block."""
        return values if self.rows is None else values[self.rows]


def _add_gradients(
    head: Head, store: _Store, live: _Live, total: Gradients, into: Tensor | None, fresh: bool
) -> None:
    """Add one block's gradients; ``into`` ``[R, H]`` is its part of the hidden gradient."""
    by_hidden = None if into is None else torch.zeros_like(live.block.hidden)
    for index, tile in enumerate(store.tiles):
        share = live.take(store.tile(index, live.size))
        peak = live.take(store.peaks[index])
        scale = live.others * torch.exp2(peak - live.log_z)[:, None]
        labels = labels_inside(live.block.targets, tile.start, share.shape[1])
        if by_hidden is not None:
            columns = head.columns(tile)
            by_hidden.addcmul_(torch.mm(share, columns), scale)
            by_hidden[labels[0]] += columns[labels[1]] * live.label[labels[0]]
        _add_columns(live, share, scale, labels, total, tile, fresh)
    if into is not None and by_hidden is not None:
        by_hidden.mul_(live.block.inner)
        into[slice(None) if live.rows is None else live.rows] = by_hidden


def _add_columns(
    live: _Live,
    share: Tensor,
    scale: Tensor,
    labels: tuple[Tensor, Tensor],
    total: Gradients,
    tile: slice,
    fresh: bool,
) -> None:
    """Add one tile of the weight and bias gradients."""
    rows, local = labels
    if total.weight is not None:
        hidden, into = live.block.hidden, total.weight[tile]
        own = into if into.dtype == hidden.dtype else hidden.new_empty(into.shape)
        torch.addmm(own, share.t(), hidden * scale, beta=0 if fresh else 1, out=own)
        own.index_add_(0, local, hidden[rows] * live.label[rows])
        if own is not into:
            into.copy_(own)
    if total.bias is not None:
        inner, into = live.block.inner, total.bias[tile]
        into.addmv_(share.t(), (inner * scale)[:, 0])
        into.index_add_(0, local, (inner[rows] * live.label[rows])[:, 0])
