"""A sweep that keeps no softmax weight beyond its tile: any number of rows in little memory."""

from __future__ import annotations

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, Needs, RowBlock, accumulate, multiply
from grpoenv_kernels.local_objective import Objective, Swept, row_terms
from grpoenv_kernels.passes import score
from grpoenv_kernels.softmax_tile import RowScores, RowSums, fold_tile, label_slope, scale_rows
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["sweep_streamed"]


def sweep_streamed(
    head: Head, rows: Tensor, objective: Objective, entropy: bool, needs: Needs
) -> Swept:
    """Sweep the given rows for the loss and, if needed, the hidden gradient.

    Costs ``2U`` with the hidden gradient, whatever the coefficients, and ``U`` without.
    """
    plan = head.streaming_plan(len(rows))
    by_hidden = head.new_hidden_gradient(len(rows)) if needs[0] else None
    losses, grads, found = head.empty(len(rows)), head.empty(len(rows)), []
    for span in row_ranges(len(rows), plan.rows):
        if by_hidden is None:
            scores, mean_weight = score(head, rows[span], entropy), None
        else:
            block = head.block(rows[span])
            scores, mean_weight = _carry(head, block, entropy, plan)
        losses[span], grad = row_terms(objective, scores.logps, rows[span], any(needs))
        found.append(scores)
        grads[span] = grad
        if by_hidden is not None and mean_weight is not None:
            by_logit = (grad * block.slope[:, 0])[:, None]
            at_label = (-torch.expm1(scores.logps) * label_slope(scores, block))[:, None]
            label_rows = head.label_rows(block.targets)
            mean_weight.neg_().addcmul_(label_rows, at_label)
            by_hidden[span] = mean_weight.mul_(by_logit * block.inner)
    scores = RowScores.concatenate(found or [RowSums.start(0, head.empty(), entropy).scores()])
    return Swept(losses.sum(), scores, grads, Gradients(by_hidden, None, None, None))


def _carry(head: Head, block: RowBlock, entropy: bool, plan: TilePlan) -> tuple[RowScores, Tensor]:
    """Score a block and sum ``p_j W_j`` (times the slope of the cap) over the other columns."""
    size = len(block.targets)
    sums, carried = RowSums.start(size, head.empty(), entropy), head.empty(*block.hidden.shape)
    carried.zero_()
    scratch = head.empty(size * plan.columns)
    weights = scratch
    if entropy or not block.folded:
        weights = head.empty(size * plan.columns, dtype=head.operand)
    for tile in plan.tiles(head.shape[0]):
        area, shape = size * (tile.stop - tile.start), (size, tile.stop - tile.start)
        columns, share = head.columns(tile), weights[:area].view(shape)
        product = multiply(block.hidden, columns.t(), scratch[:area].view(shape))
        factor = fold_tile(product, share, block, head.biases(tile), tile.start, sums, keep=True)
        if factor is not None:
            scale_rows(carried, factor)
        accumulate(carried, share, columns)
    scores = head.close(sums)
    return scores, carried.mul_(torch.exp2(sums.reference - scores.log_z)[:, None])
