"""One sweep for a trainable head: a block of rows keeps its softmax weights until its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, RowBlock, accumulate, multiply
from grpoenv_kernels.local_objective import Objective, Swept, row_terms
from grpoenv_kernels.softmax_tile import (
    RowScores,
    RowSums,
    fold_tile,
    label_slope,
    labels_inside,
    scale_rows,
)
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["sweep_stored"]


def sweep_stored(
    head: Head, rows: Tensor, objective: Objective, entropy: bool, needs: Needs
) -> Swept:
    """Sweep the given rows for the loss and every gradient that is needed.

    Rows with a zero derivative cost ``U``, the others ``2U`` or, with the weight gradient, ``3U``.
    The bias gradient comes in the compute dtype. A weight that is not in the compute dtype must
    fit in one block.
    """
    plan = head.stored_plan(len(rows))
    store = _Store.allocate(head, plan, len(rows), entropy)
    total = _start(head, len(rows), needs)
    losses, grads, found, fresh = head.empty(len(rows)), head.empty(len(rows)), [], True
    for span in row_ranges(len(rows), plan.rows):
        block = head.block(rows[span])
        scores = store.fill(head, block)
        losses[span], grad = row_terms(objective, scores.logps, rows[span], graded=True)
        found.append(scores)
        grads[span] = grad
        live = grad.nonzero()[:, 0]
        if len(live):
            into = None if total.hidden is None else total.hidden[span]
            _add_gradients(head, store, _Live(block, scores, grad, live), total, into, fresh)
            fresh = False
    for unset, _ in total.columns() if fresh else []:
        unset.zero_()
    scores = RowScores.concatenate(found or [RowSums.start(0, head.empty(), entropy).scores()])
    return Swept(losses.sum(), scores, grads, total)


def _start(head: Head, rows: int, needs: Needs) -> Gradients:
    total = head.new_gradients(0, (False, needs[1], False, needs[3]))
    hidden = head.new_hidden_gradient(rows).zero_() if needs[0] else None
    bias = head.empty(head.shape[0]).zero_() if needs[2] else None
    return Gradients(hidden, total.weight, bias, total.adapter)


@dataclass
class _Store:
    """Softmax weights of one block, tile after tile, and the references they are relative to."""

    weights: Tensor
    scratch: Tensor
    tiles: list[slice]
    sums: RowSums
    references: list[Tensor]

    @staticmethod
    def allocate(head: Head, plan: TilePlan, rows: int, entropy: bool) -> _Store:
        used = min(rows, plan.rows)
        weights = head.empty(used * head.shape[0], dtype=head.operand)
        sums = RowSums.start(0, head.empty(), entropy)
        scratch = head.empty(used * plan.columns)
        return _Store(weights, scratch, list(plan.tiles(head.shape[0])), sums, [])

    def tile(self, index: int, rows: int) -> Tensor:
        """Return the weights ``[rows, C]`` of one tile."""
        tile = self.tiles[index]
        return self.weights[tile.start * rows : tile.stop * rows].view(rows, -1)

    def fill(self, head: Head, block: RowBlock) -> RowScores:
        """Score a block, replacing what was stored."""
        rows, entropy = len(block.targets), self.sums.moment is not None
        self.sums, self.references = RowSums.start(rows, head.empty(), entropy), []
        for index, tile in enumerate(self.tiles):
            width = tile.stop - tile.start
            product = self.scratch[: rows * width].view(rows, width)
            multiply(block.hidden, head.columns(tile).t(), product)
            into, bias = self.tile(index, rows), head.biases(tile)
            fold_tile(product, into, block, bias, tile.start, self.sums, keep=True)
            self.references.append(self.sums.reference)
        return head.close(self.sums)

    def settle(self, index: int, live: _Live) -> Tensor:
        """Return one tile's weights of the live rows, relative to the last references."""
        share = live.take(self.tile(index, live.size))
        scale_rows(share, live.take(torch.exp2(self.references[index] - self.sums.reference)))
        return share


class _Live:
    """The rows of a block that have a gradient, with what the gradient needs.

    Attributes:
        rows: their positions in the block, or ``None`` if they are all of it.
        size: rows of the whole block.
        block: these rows.
        others: ``[r, 1]``, coefficient on the softmax weights, less their reference's factor.
        label: ``[r, 1]``, coefficient of the label's own column.
        log_z: ``[r, 1]``.

    """

    def __init__(self, block: RowBlock, scores: RowScores, grad: Tensor, live: Tensor) -> None:
        self.size = len(grad)
        self.rows = None if len(live) == self.size else live
        if self.rows is not None:
            block, scores, grad = block.select(live), scores.select(live), grad[live]
        self.block, self.log_z = block, scores.log_z[:, None]
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
    by_hidden = None if into is None else head.empty(*live.block.hidden.shape).zero_()
    reference = live.take(store.sums.reference)[:, None]
    scale = live.others * torch.exp2(reference - live.log_z)
    columns_of = _Columns.start(head, live, scale, total, fresh)
    for index, tile in enumerate(store.tiles):
        share = store.settle(index, live)
        if by_hidden is not None:
            accumulate(by_hidden, share, head.columns(tile))
        columns_of.add(share, tile)
    if into is not None and by_hidden is not None:
        at_label = head.label_rows(live.block.targets)
        by_hidden.mul_(scale).addcmul_(at_label, live.label).mul_(live.block.inner)
        into[slice(None) if live.rows is None else live.rows] = by_hidden.to(into.dtype)


@dataclass(frozen=True)
class _Columns:
    """The gradients of weight, adapter and bias of one block's live rows.

    Attributes:
        total: what is added to.
        fresh: whether ``total`` is still uninitialised, but for the bias.
        targets: ``[r]``.
        hidden: ``[r, H]``, the folded hidden rows times the coefficient of the softmax weights, as
            an operand.
        label: ``[r, H]``, the folded hidden rows times the coefficient of the label's column.
        inner: ``[r]`` and ``[r]``, the same for the bias.

    """

    total: Gradients
    fresh: bool
    targets: Tensor
    hidden: Tensor
    label: Tensor
    inner: tuple[Tensor, Tensor]

    @staticmethod
    def start(head: Head, live: _Live, scale: Tensor, total: Gradients, fresh: bool) -> _Columns:
        block = live.block
        hidden = block.folded_hidden() if total.columns() else block.inner
        inner = ((block.inner * scale)[:, 0], (block.inner * live.label)[:, 0])
        scaled = (hidden * scale).to(head.operand)
        return _Columns(total, fresh, block.targets, scaled, hidden * live.label, inner)

    def add(self, share: Tensor, tile: slice) -> None:
        """Add one tile's gradients."""
        rows, local = labels_inside(self.targets, tile.start, share.shape[1])
        for total, columns in self.total.columns():
            into, hidden = total[tile], self.hidden[:, columns]
            same = into.dtype == self.label.dtype
            own = into if same else self.label.new_empty(into.shape)
            if self.fresh:
                multiply(share.t(), hidden, own)
            else:
                accumulate(own, share.t(), hidden)
            own.index_add_(0, local, self.label[rows, columns])
            if not same:
                into.copy_(own)
        if self.total.bias is not None:
            bias = self.total.bias[tile]
            bias.addmv_(share.t().to(bias.dtype), self.inner[0])
            bias.index_add_(0, local, self.inner[1][rows])
