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
    def allocate(head: Head, plan: StoredPlan) -> Workspace:
        """Allocate what ``plan`` needs."""
        vocabulary, size = head.shape[0], plan.most_rows * plan.columns
        return Workspace(
            list(plan.tiles(vocabulary)),
            head.empty(plan.kept * vocabulary, dtype=head.operand),
            head.empty(size),
            head.empty(size, dtype=head.operand),
        )


@dataclass
class KeptBlock:
    """Rows of one block, and the memory that has their softmax weights, tile after tile.

    Attributes:
        rows: the rows.
        sums: their statistics so far.
        memory: flat, of operands: :attr:`Workspace.kept`, or the memory of the weight gradient,
            where the weights of a tile lie in the tile's own part, until that is written.
        pitch: elements of the memory for each column.
        lent: whether it is the weight gradient's.
        references: what the weights of each tile are relative to.

    """

    rows: RowBlock
    sums: RowSums
    memory: Tensor
    pitch: int
    lent: bool
    references: list[Tensor] = field(default_factory=list)

    @staticmethod
    def of(
        head: Head, rows: Tensor, entropy: bool, work: Workspace, gradient: Tensor | None
    ) -> KeptBlock:
        """Start a block of rows (int64 ``[R]``), in the memory of ``gradient`` ``[V, H]`` if given."""
        block, sums = head.block(rows), RowSums.start(len(rows), head.empty(), entropy)
        if gradient is None:
            return KeptBlock(block, sums, work.kept, len(rows), lent=False)
        memory = gradient.view(-1).view(head.operand)
        return KeptBlock(block, sums, memory, head.pitch(gradient), lent=True)

    def _weights(self, tile: slice) -> Tensor:
        first, width = tile.start * self.pitch, tile.stop - tile.start
        return area(self.memory, len(self.rows.targets), width, first)

    def fold(self, columns: Tensor, bias: Tensor | None, tile: slice, work: Workspace) -> None:
        """Score one tile, whose weight rows are ``columns`` ``[C, H]``, and keep its weights."""
        product = area(work.product, len(self.rows.targets), len(columns))
        multiply(self.rows.hidden, columns.t(), product)
        into = self._weights(tile)
        fold_tile(product, into, self.rows, bias, tile.start, self.sums, keep=True)
        self.references.append(self.sums.reference)

    def share(self, index: int, live: LiveRows, work: Workspace) -> Tensor:
        """Return the live rows' weights of a tile, relative to the last references.

        The tile's part of the block's own memory is free afterwards.
        """
        weights, reference = self._weights(work.tiles[index]), self.references[index]
        if self.lent:  # the gradient is written where they are
            into = area(work.share, len(live.rows), weights.shape[1])
            found = torch.index_select(weights, 0, live.rows, out=into)
        else:
            found = live.move_up(weights)
        if reference is not self.sums.reference:
            scale_rows(found, torch.exp2(reference - self.sums.reference)[live.rows])
        return found


@dataclass(frozen=True)
class LiveRows:
    """The rows of a block that have a gradient, with what the gradient needs.

    Attributes:
        rows: ``[r]``, their positions in the block, such that those among the first ``r`` stay
            where they are.
        gaps: the others of the first ``r`` positions.
        block: these rows.
        scale: ``[r, 1]``, coefficient on the kept softmax weights.
        label: ``[r, 1]``, coefficient of the label's own column.

    """

    rows: Tensor
    gaps: Tensor
    block: RowBlock
    scale: Tensor
    label: Tensor

    @staticmethod
    def of(kept: KeptBlock, scores: RowScores, grad: Tensor) -> LiveRows:
        """Find them by ``grad`` ``[R]``, the derivatives by the log-probabilities."""
        live = grad.nonzero()[:, 0]
        gaps = (grad[: len(live)] == 0).nonzero()[:, 0]
        rows = torch.arange(len(live), device=grad.device)
        rows[gaps] = live[live >= len(live)]
        block, reference = kept.rows, kept.sums.reference
        if len(rows) < len(grad):
            block, scores = block.select(rows), scores.select(rows)
            grad, reference = grad[rows], reference[rows]
        grad = grad * block.slope[:, 0]
        scale = -grad * torch.exp2(reference - scores.log_z)
        label = -torch.expm1(scores.logps) * label_slope(scores, block) * grad
        return LiveRows(rows, gaps, block, scale[:, None], label[:, None])

    def move_up(self, values: Tensor) -> Tensor:
        """Return the live rows of ``values`` ``[R, C]``, of which only the gaps are overwritten."""
        if len(self.gaps):
            values[self.gaps] = values[self.rows[self.gaps]]
        return values[: len(self.rows)]
