"""Blocks of rows that keep their softmax weights between scoring and gradients."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from grpoenv_kernels.head import Head, RowBlock, area, multiply
from grpoenv_kernels.softmax_tile import (
    RowScores,
    RowSums,
    fold_tile,
    label_slope,
    scale_rows,
)
from grpoenv_kernels.tiles import StoredPlan

__all__ = ["KeptBlock", "LiveRows", "Workspace"]


@dataclass(frozen=True)
class Workspace:
    """Memory that all blocks share, and the vocabulary tiles that they go through.

    Attributes:
        tiles: the column ranges.
        kept: flat, for the weights of a block that is kept in the budget.
        product: flat, one tile of products in the compute dtype.
        share: flat, one tile of weights as an operand.

    """

    tiles: list[slice]
    kept: Tensor
    product: Tensor
    share: Tensor

    @staticmethod
    def allocate(head: Head, plan: StoredPlan, kept: torch.dtype) -> Workspace:
        """Allocate what ``plan`` needs for weights of dtype ``kept``."""
        vocabulary, size = head.shape[0], plan.most_rows * plan.columns
        return Workspace(
            list(plan.tiles(vocabulary)),
            head.empty(plan.kept * vocabulary, dtype=kept),
            head.empty(size),
            head.empty(size, dtype=head.operand),
        )


@dataclass
class KeptBlock:
    """Rows of one block, and the memory that has their softmax weights, tile after tile.

    Attributes:
        rows: the rows.
        sums: their statistics so far.
        memory: flat in :attr:`Workspace.kept`, or the weight gradient ``[V, H]`` if it is ``lent``:
            the weights of a tile then lie in the tile's own part, until it is written.
        lent: whether it is.
        references: what the weights of each tile are relative to.

    """

    rows: RowBlock
    sums: RowSums
    memory: Tensor
    lent: bool
    references: list[Tensor] = field(default_factory=list)

    @staticmethod
    def of(head: Head, rows: Tensor, entropy: bool, memory: Tensor, lent: bool) -> KeptBlock:
        """Start a block of the given rows (int64 ``[R]``)."""
        sums = RowSums.start(len(rows), head.empty(), entropy)
        return KeptBlock(head.block(rows), sums, memory, lent)

    def _weights(self, tile: slice) -> Tensor:
        rows, columns = len(self.rows.targets), tile.stop - tile.start
        if self.lent:
            return area(self.memory[tile].view(-1), rows, columns)
        return self.memory[tile.start * rows : tile.stop * rows].view(rows, columns)

    def fold(self, columns: Tensor, bias: Tensor | None, tile: slice, work: Workspace) -> None:
        """Score one tile, whose weight rows are ``columns`` ``[C, H]``, and keep its weights."""
        rows, width = len(self.rows.targets), len(columns)
        product = multiply(self.rows.hidden, columns.t(), area(work.product, rows, width))
        into = kept = self._weights(tile)
        if kept.dtype != work.share.dtype:  # sums are of what has not been rounded
            into = area(work.share, rows, width) if self.sums.moment is not None else product
        fold_tile(product, into, self.rows, bias, tile.start, self.sums, keep=True)
        if into is not kept:
            kept.copy_(into)
        self.references.append(self.sums.reference)

    def share(self, index: int, live: LiveRows, work: Workspace) -> Tensor:
        """Return the live rows' weights of a tile as an operand, relative to the last references.

        The block's own memory is free afterwards.
        """
        found = live.take(self._weights(work.tiles[index]))
        if found.dtype != work.share.dtype or (self.lent and live.rows is None):
            found = area(work.share, *found.shape).copy_(found)
        scale_rows(found, live.take(torch.exp2(self.references[index] - self.sums.reference)))
        return found


@dataclass(frozen=True)
class LiveRows:
    """The rows of a block that have a gradient, with what the gradient needs.

    Attributes:
        rows: their positions in the block, or ``None`` if they are all of it.
        block: these rows.
        scale: ``[r, 1]``, coefficient on the kept softmax weights.
        label: ``[r, 1]``, coefficient of the label's own column.

    """

    rows: Tensor | None
    block: RowBlock
    scale: Tensor
    label: Tensor

    @staticmethod
    def of(kept: KeptBlock, scores: RowScores, grad: Tensor) -> LiveRows:
        """Find them by ``grad`` ``[R]``, the derivatives by the log-probabilities."""
        live, block, reference = grad.nonzero()[:, 0], kept.rows, kept.sums.reference
        rows = None if len(live) == len(grad) else live
        if rows is not None:
            block, scores, grad, reference = (
                block.select(rows),
                scores.select(rows),
                grad[rows],
                reference[rows],
            )
        grad = grad * block.slope[:, 0]
        scale = -grad * torch.exp2(reference - scores.log_z)
        label = -torch.expm1(scores.logps) * label_slope(scores, block) * grad
        return LiveRows(rows, block, scale[:, None], label[:, None])

    def take(self, values: Tensor) -> Tensor:
        """Return the live rows of a tensor that has all rows of the block."""
        return values if self.rows is None else values[self.rows]
