"""The elementwise passes over one tile of logits: the part that a device kernel replaces.

Logits are in base 2 (see :mod:`grpoenv_kernels.head`). The label's own column never enters a sum:
a confident row has ``p ~ 1``, and ``1 - p`` would cancel to nothing in float32. The log-probability
comes from the other columns instead, ``-log1p(sum_others exp(z - z_label))``, and the gradient at
the label from ``-expm1(log p)``.

Rows are merged over tiles with the online softmax of Milakov and Gimelshein (arXiv 1805.02867,
algorithm 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import LN_2, LOG2_E, RowBlock

__all__ = [
    "RowScores",
    "RowSums",
    "Upstream",
    "fold_tile",
    "gradient_tile",
    "label_slope",
    "labels_inside",
]


class Upstream(NamedTuple):
    """Upstream gradients of ``R`` rows, each ``[R]`` in the compute dtype."""

    logps: Tensor
    entropies: Tensor | None

    def select(self, rows: Tensor | slice) -> Upstream:
        """Return the given rows (int64 positions or a range)."""
        entropies = None if self.entropies is None else self.entropies[rows]
        return Upstream(self.logps[rows], entropies)


@dataclass
class RowSums:
    """Running statistics of ``R`` rows, each ``[R]``, updated in place by :meth:`merge`.

    Attributes:
        peak: largest logit other than the label's, or a large negative number before any.
        total: sum of ``2 ** (z - peak)`` over the other columns.
        moment: sum of ``2 ** (z - peak) * (z - peak)``, ``None`` when no entropy is asked for.
        label: the label's own logit, NaN until its tile was seen.

    """

    peak: Tensor
    total: Tensor
    moment: Tensor | None
    label: Tensor

    @staticmethod
    def start(rows: int, like: Tensor, moment: bool) -> RowSums:
        """Return the statistics of ``rows`` rows of which no column was seen yet."""
        zeros = like.new_zeros(rows)
        return RowSums(
            peak=like.new_full((rows,), _lowest(like)),
            total=zeros,
            moment=zeros.clone() if moment else None,
            label=like.new_full((rows,), float("nan")),
        )

    def merge(self, peak: Tensor, total: Tensor, moment: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fold in one tile; return the factors ``[R]`` on what came before and on the tile."""
        top = torch.maximum(self.peak, peak)
        before, now = torch.exp2(self.peak - top), torch.exp2(peak - top)
        if self.moment is not None and moment is not None:
            kept = self.moment + (self.peak - top) * self.total
            self.moment = before * kept + now * (moment + (peak - top) * total)
        self.total = before * self.total + now * total
        self.peak = top
        return before, now

    def scores(self) -> RowScores:
        """Close the sums once every column was seen."""
        others = self.peak + self.total.log2()
        gap = (others - self.label) * LN_2
        logps = -torch.logaddexp(torch.zeros_like(gap), gap)
        log_z = torch.maximum(others, self.label) + torch.log1p((-gap.abs()).exp()) * LOG2_E
        entropies = None
        if self.moment is not None:
            spread = self.total * (log_z - self.peak) - self.moment
            rest = torch.exp2(self.peak - log_z) * spread * LN_2
            chosen = logps.exp()
            entropies = rest + torch.where(chosen > 0, -chosen * logps, 0.0)
        return RowScores(logps, log_z, self.label, entropies)


@dataclass(frozen=True)
class RowScores:
    """Results of ``R`` rows, each ``[R]``.

    Attributes:
        logps: natural log-probability of the label.
        log_z: log-sum-exp of the logits, base 2.
        label: logit of the label, base 2.
        entropies: entropy of the distribution in nats, or ``None``.

    """

    logps: Tensor
    log_z: Tensor
    label: Tensor
    entropies: Tensor | None

    @staticmethod
    def concatenate(parts: Sequence[RowScores]) -> RowScores:
        """Join the scores of consecutive blocks of rows; at least one."""
        entropies = [part.entropies for part in parts if part.entropies is not None]
        return RowScores(
            torch.cat([part.logps for part in parts]),
            torch.cat([part.log_z for part in parts]),
            torch.cat([part.label for part in parts]),
            torch.cat(entropies) if entropies else None,
        )

    def select(self, rows: Tensor | slice) -> RowScores:
        """Return the scores of the given rows (int64 positions or a range)."""
        entropies = None if self.entropies is None else self.entropies[rows]
        return RowScores(self.logps[rows], self.log_z[rows], self.label[rows], entropies)


def _lowest(like: Tensor) -> float:
    # Half of the range: differences of two such values stay finite.
    return torch.finfo(like.dtype).min / 2


def labels_inside(targets: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the rows whose label lies in a tile, and its column there; both int64 ``[r]``."""
    local = targets - start
    rows = ((local >= 0) & (local < width)).nonzero()[:, 0]
    return rows, local[rows]


def _cap(product: Tensor, outer: Tensor | None) -> Tensor:
    return product if outer is None else product.tanh_().mul_(outer)


def _slope(logits: Tensor, outer: Tensor) -> Tensor:
    return 1 - (logits / outer).square()


def label_slope(scores: RowScores, block: RowBlock) -> Tensor:
    """Slope of the cap at each row's label, ``[R]``; ones without a cap."""
    if block.outer is None:
        return torch.ones_like(scores.label)
    return _slope(scores.label, block.outer[:, 0])


def fold_tile(
    product: Tensor, weights: Tensor, block: RowBlock, start: int, sums: RowSums, slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn one tile of products into softmax weights and fold their sums into ``sums``.

    Args:
        product: ``[R, C]``, the folded products; overwritten.
        weights: ``[R, C]``, receives ``2 ** (z - peak)`` with the tile's own peak, zero at the
            labels; may be ``product``'s memory unless an entropy is asked for.
        block: the rows.
        start: first column of the tile in the vocabulary.
        sums: running statistics, updated.
        slope: multiply ``weights`` by the slope of the softcap, as a gradient needs it.

    Returns:
        ``(peak, before, now)``, each ``[R]``: the tile's own peak, and the factors that bring the
        earlier tiles and this one to the new common peak.

    """
    logits = _cap(product, block.outer)
    rows, local = labels_inside(block.targets, start, logits.shape[1])
    sums.label[rows] = logits[rows, local]
    logits[rows, local] = -torch.inf
    peak = logits.amax(1).clamp_(min=_lowest(logits))
    tangent = _slope(logits, block.outer) if slope and block.outer is not None else None
    logits.sub_(peak[:, None])
    torch.exp2(logits, out=weights)
    total = weights.sum(1)
    moment = None
    if sums.moment is not None:
        moment = torch.mul(weights, logits.clamp_(min=_lowest(logits)), out=logits).sum(1)
    before, now = sums.merge(peak, total, moment)
    if tangent is not None:
        weights.mul_(tangent)
        weights[rows, local] = 0
    return peak, before, now


def gradient_tile(
    product: Tensor, block: RowBlock, start: int, scores: RowScores, upstream: Upstream
) -> Tensor:
    """Overwrite one tile of products with the gradient by these products.

    ``d logp / dz_j = [j = label] - p_j`` and ``d entropy / dz_j = -p_j (log p_j + entropy)``.

    Args:
        product: ``[R, C]``, the folded products; overwritten and returned.
        block: the rows.
        start: first column of the tile in the vocabulary.
        scores: the rows' results; ``entropies`` must be there if the upstream has them.
        upstream: gradients by the rows' log-probabilities and entropies.

    """
    logits = _cap(product, block.outer)
    rows, local = labels_inside(block.targets, start, logits.shape[1])
    tangent = None if block.outer is None else _slope(logits, block.outer)
    logits.sub_(scores.log_z[:, None])
    slope, logps = block.slope[:, 0], scores.logps[rows]
    grad = upstream.logps * slope
    at_label = -torch.expm1(logps) * grad[rows]
    if upstream.entropies is None or scores.entropies is None:
        logits.exp2_().mul_(-grad[:, None])
    else:
        by_entropy = upstream.entropies * slope
        level = -(grad + by_entropy * scores.entropies)
        share = torch.exp2(logits)
        logits.clamp_(min=_lowest(logits)).mul_(-LN_2 * by_entropy[:, None])
        logits.add_(level[:, None]).mul_(share)
        chosen, spread = logps.exp(), logps + scores.entropies[rows]
        at_label -= by_entropy[rows] * torch.where(chosen > 0, chosen * spread, 0.0)
    logits[rows, local] = at_label
    return logits if tangent is None else logits.mul_(tangent)
