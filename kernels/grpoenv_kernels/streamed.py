"""One sweep for a frozen head: no softmax weight outlives its tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients, Head, RowBlock
from grpoenv_kernels.local_objective import row_terms
from grpoenv_kernels.softmax_tile import RowScores, RowSums, fold_tile, label_slope
from grpoenv_kernels.tiles import TilePlan, row_ranges

__all__ = ["sweep_streamed"]


def sweep_streamed(
    head: Head,
    rows: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    entropy: bool,
    needs: tuple[bool, bool, bool],
    budget: int,
) -> tuple[Tensor, RowScores, Gradients]:
    """Return loss, scores ``[n]`` and the hidden gradient ``[n, H]`` of the given rows.

    ``needs`` must not ask for the weight or the bias. Costs ``2U`` whatever the coefficients.
    """
    plan = TilePlan.streaming(len(rows), head.shape, head.dtype.itemsize, budget)
    total = head.new_gradients(len(rows), needs)
    losses, found = head.empty(len(rows)), []
    for span in row_ranges(len(rows), plan.rows):
        block = head.block(rows[span])
        scores, mean_weight = _carry(head, block, entropy, plan)
        losses[span], grad = row_terms(objective, scores.logps, rows[span])
        found.append(scores)
        if total.hidden is not None:
            grad = grad * block.slope[:, 0]
            at_label = -torch.expm1(scores.logps) * label_slope(scores, block) * grad
            label_rows = head.weight[block.targets].to(head.dtype)
            into = torch.mul(mean_weight, -grad[:, None], out=total.hidden[span])
            into.addcmul_(label_rows, at_label[:, None]).mul_(block.inner)
    if not found:
        found.append(RowSums.start(0, head.empty(), entropy).scores())
    return losses.sum(), RowScores.concatenate(found), total


def _carry(head: Head, block: RowBlock, entropy: bool, plan: TilePlan) -> tuple[RowScores, Tensor]:
    """Score a block and sum ``p_j W_j`` (times the slope of the cap) over the other columns."""
    size = len(block.targets)
    sums, carried = RowSums.start(size, head.empty(), entropy), torch.zeros_like(block.hidden)
    scratch = head.empty(size * plan.columns)
    weights = head.empty(size * plan.columns) if entropy else scratch
    for tile in plan.tiles(head.shape[0]):
        area, shape = size * (tile.stop - tile.start), (size, tile.stop - tile.start)
        columns, share = head.columns(tile), weights[:area].view(shape)
        product = head.product(block, tile, columns, scratch[:area].view(shape))
        _, before, now = fold_tile(product, share, block, tile.start, sums, slope=True)
        carried.mul_(before[:, None]).addcmul_(torch.mm(share, columns), now[:, None])
    scores = sums.scores()
    return scores, carried.mul_(torch.exp2(sums.peak - scores.log_z)[:, None])
