"""One sweep for a trainable head: softmax weights are kept until the coefficients are known.

Rows are scored first; then, tile after tile of the vocabulary, their softmax weights make the
hidden gradient and, summed over the rows before it is rounded, the weight gradient. In between they
lie in the memory of the weight gradient itself, which nothing needs before, and in the budget. The
rows that find no place are swept like those of a frozen head, and their logits computed again for
the weight gradient.

A weight gradient in the compute dtype is a float32 sum: there further rounds of rows follow, each
in the budget, and nothing is computed again. One in bfloat16 is made in a single round, so that no
partial sum is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, accumulate
from grpoenv_kernels.kept import KeptBlock, LiveRows, Workspace
from grpoenv_kernels.local_objective import Objective, Swept, row_terms
from grpoenv_kernels.passes import Recomputed, TileSums
from grpoenv_kernels.softmax_tile import RowScores, RowSums, Upstream
from grpoenv_kernels.streamed import sweep_streamed
from grpoenv_kernels.tiles import Place

__all__ = ["sweep_stored"]


def sweep_stored(
    head: Head, rows: Tensor, objective: Objective, entropy: bool, needs: Needs
) -> Swept:
    """Sweep the given rows for the loss and every gradient that is needed.

    Rows with a zero derivative cost ``U``, the others ``2U`` or, with the weight gradient, ``3U``;
    those without a place ``2U`` and ``4U``. The bias gradient comes in the compute dtype.
    """
    total = _start(head, len(rows), needs)
    adds = all(whole.dtype == head.dtype for whole, _ in total.columns())
    plan = head.stored_plan(len(rows), total.weight, adds)
    sweep = _Sweep(head, rows, objective, entropy, needs, total, Workspace.allocate(head, plan))
    for places in plan.rounds(len(rows)):
        sweep.add_round(places)
    return sweep.finish()


def _start(head: Head, rows: int, needs: Needs) -> Gradients:
    total = head.new_gradients(0, (False, needs[1], False, needs[3]))
    hidden = head.new_hidden_gradient(rows).zero_() if needs[0] else None
    bias = head.empty(head.shape[0]).zero_() if needs[2] else None
    return Gradients(hidden, total.weight, bias, total.adapter)


@dataclass
class _Sweep:
    """The problem, and what was found in the rounds so far; ``fresh`` before the first gradient."""

    head: Head
    rows: Tensor
    objective: Objective
    entropy: bool
    needs: Needs
    total: Gradients
    work: Workspace
    found: list[tuple[Tensor, RowScores, Tensor]] = field(default_factory=list)
    fresh: bool = True

    def add_round(self, places: list[tuple[Place, slice]]) -> None:
        """Score blocks of rows and add their gradients."""
        live, again = list[_Part](), list[Recomputed]()
        for place, span in places:
            if place is Place.NOWHERE:
                again.append(self._stream(span))
                continue
            block, scores, grad = self._keep(span, place)
            if bool(grad.any()):
                live.append(_Part.start(self.head, block, LiveRows.of(block, scores, grad), span))
        if not live and not again:
            return
        for index, tile in enumerate(self.work.tiles):
            self._add_tile(index, tile, live, again)
        for part in live:
            part.finish(self.head, self.total.hidden)
        self.fresh = False

    def _keep(self, span: slice, place: Place) -> tuple[KeptBlock, RowScores, Tensor]:
        lent = self.total.weight if place is Place.GRADIENT else None
        block = KeptBlock.of(self.head, self.rows[span], self.entropy, self.work, lent)
        for tile in self.work.tiles:
            block.fold(self.head.columns(tile), self.head.biases(tile), tile, self.work)
        scores = self.head.close(block.sums)
        terms, grad = row_terms(self.objective, scores.logps, self.rows[span], graded=True)
        self.found.append((terms.sum(), scores, grad))
        return block, scores, grad

    def _stream(self, span: slice) -> Recomputed:
        own = self.rows[span]
        swept = sweep_streamed(self.head, own, self.objective, self.entropy, self.needs)
        self.found.append((swept.loss, swept.scores, swept.by_logps))
        if self.total.hidden is not None and swept.gradients.hidden is not None:
            self.total.hidden[span] = swept.gradients.hidden
        live = swept.by_logps.nonzero()[:, 0]
        upstream = Upstream(swept.by_logps[live], None)
        return Recomputed.of(self.head, own[live], swept.scores.select(live), upstream)

    def _add_tile(
        self, index: int, tile: slice, live: list[_Part], again: list[Recomputed]
    ) -> None:
        columns, bias = self.head.columns(tile), self.head.biases(tile)
        sums = TileSums.start(self.total, tile, self.head, self.fresh)
        for part in live:
            share = part.block.share(index, part.live, self.work)
            if self.total.hidden is not None:
                accumulate(part.by_hidden, share, columns)
            if any(self.needs[1:]):
                part.add_columns(share, tile, sums)
        for block in again:
            grad, rows = block.gradient(
                self.head, tile, columns, bias, self.work.product, self.work.share
            )
            sums.add(grad, rows.hidden, rows.weighing())
        sums.store()

    def finish(self) -> Swept:
        """Return everything."""
        for unset, _ in self.total.columns() if self.fresh else []:
            unset.zero_()
        none = RowSums.start(0, self.head.empty(), self.entropy).scores()
        losses = [loss for loss, _, _ in self.found]
        return Swept(
            torch.stack([self.head.empty(1).zero_()[0], *losses]).sum(),
            RowScores.concatenate([none, *(scores for _, scores, _ in self.found)]),
            torch.cat([self.head.empty(), *(grad for _, _, grad in self.found)]),
            self.total,
        )


@dataclass(frozen=True)
class _Part:
    """The live rows of a kept block on the way to their gradients.

    Attributes:
        block: the block.
        live: its rows with a gradient.
        span: where the block lies among the rows of the sweep.
        by_hidden: ``[r, H]``, sums of weight rows, in the compute dtype.
        scaled: ``[r, H]``, folded hidden rows times the coefficient of the weights, an operand.
        labelled: ``[r, H]``, folded hidden rows times the coefficient of the label's column.

    """

    block: KeptBlock
    live: LiveRows
    span: slice
    by_hidden: Tensor
    scaled: Tensor
    labelled: Tensor

    @staticmethod
    def start(head: Head, block: KeptBlock, live: LiveRows, span: slice) -> _Part:
        hidden = live.block.folded_hidden()
        scaled = (hidden * live.scale).to(head.operand)
        by_hidden = head.empty(*hidden.shape).zero_()
        return _Part(block, live, span, by_hidden, scaled, hidden * live.label)

    def add_columns(self, share: Tensor, tile: slice, sums: TileSums) -> None:
        """Add to the gradients by one tile's columns, from its weights ``share``."""
        inner, live = self.live.block.inner, self.live
        sums.add(share, self.scaled, (inner * live.scale)[:, 0])
        rows, local = live.block.labels_inside(tile.start, share.shape[1])
        sums.add_rows(local, self.labelled[rows], (inner * live.label)[rows, 0])

    def finish(self, head: Head, total: Tensor | None) -> None:
        """Write the hidden gradient into ``total``, that of all rows."""
        if total is None:
            return
        live, into = self.live, total[self.span]
        at_label = head.label_rows(live.block.targets)
        found = self.by_hidden.mul_(live.scale).addcmul_(at_label, live.label)
        into[live.rows] = found.mul_(live.block.inner).to(into.dtype)
