"""The elementwise passes over one tile of logits: the part that a device kernel replaces.

Logits are in base 2 (see :mod:`grpoenv_kernels.head`). The label's own column never enters a sum:
a confident row has ``p ~ 1``, and ``1 - p`` would cancel to nothing in float32. The log-probability
comes from the other columns instead, ``-log1p(sum_others exp(z - z_label))``, and the gradient at
the label from ``-expm1(log p)``.

Rows are merged over tiles with the online softmax of Milakov and Gimelshein (arXiv 1805.02867,
algorithm 3), relative to a reference that moves only when it must, by powers of two. So the weights
of different tiles can be summed as they are, and rescaling them is exact in every dtype.

On a GPU the Triton kernels of :mod:`grpoenv_kernels.triton_tile` do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import LN_2, LOG2_E, RowBlock

__all__ = [
    "SLACK",
    "RowCoefficients",
    "RowScores",
    "RowSums",
    "Upstream",
    "fold_tile",
    "gradient_tile",
    "label_logits",
    "label_slope",
    "lowest",
    "scale_rows",
]

# A reference may lie this many powers of two below the largest logit: 2 ** 8 is in the range of
# every dtype, float16 included. float32 has the range for more, and for sums of a vocabulary.
SLACK = 8
_WIDE_SLACK = 64


class Upstream(NamedTuple):
    """Upstream gradients of ``R`` rows, each ``[R]`` in the compute dtype."""

    logps: Tensor
    entropies: Tensor | None

    def select(self, rows: Tensor | slice) -> Upstream:
        """Return the given rows (int64 positions or a range)."""
        entropies = None if self.entropies is None else self.entropies[rows]
        return Upstream(self.logps[rows], entropies)

    def times(self, factor: Tensor) -> Upstream:
        """Return the gradients times a scalar."""
        entropies = None if self.entropies is None else self.entropies * factor
        return Upstream(self.logps * factor, entropies)


@dataclass
class RowSums:
    """Running statistics of ``R`` rows, each ``[R]``, updated in place.

    Attributes:
        reference: an integer near the largest logit other than the label's, or a large negative
            number before any; it is raised when a tile exceeds it by more than a slack, which
            after the first tile is rare.
        total: sum of ``2 ** (z - reference)`` over the other columns.
        moment: sum of ``2 ** (z - reference) * (z - reference)``, ``None`` when no entropy is
            asked for.
        label: the label's own logit, NaN until its tile was seen.
        at_zero: whether every reference is known to be 0, so that nothing need be subtracted.

    """

    reference: Tensor
    total: Tensor
    moment: Tensor | None
    label: Tensor
    at_zero: bool = False

    @staticmethod
    def start(rows: int, like: Tensor, moment: bool) -> RowSums:
        """Return the statistics of ``rows`` rows of which no column was seen yet."""
        zeros = like.new_zeros(rows)
        return RowSums(
            reference=like.new_full((rows,), lowest(like.dtype)),
            total=zeros,
            moment=zeros.clone() if moment else None,
            label=like.new_full((rows,), float("nan")),
        )

    @staticmethod
    def concatenate(parts: Sequence[RowSums]) -> RowSums:
        """Join the sums of consecutive blocks of rows; at least one."""
        moments = [part.moment for part in parts if part.moment is not None]
        return RowSums(
            torch.cat([part.reference for part in parts]),
            torch.cat([part.total for part in parts]),
            torch.cat(moments) if moments else None,
            torch.cat([part.label for part in parts]),
        )

    def merge(self, other: RowSums) -> None:
        """Fold in the sums of the same rows over other columns."""
        top = torch.maximum(self.reference, other.reference)
        for sums in (self, other):
            sums.move_to(top)
        self.total = self.total + other.total
        if self.moment is not None and other.moment is not None:
            self.moment = self.moment + other.moment
        self.label = torch.where(self.label.isnan(), other.label, self.label)

    def raise_to(self, peak: Tensor, slack: int) -> Tensor | None:
        """Move the references up to a tile's peaks; return the factors ``[R]`` on what was before.

        The factors are powers of two, and 1 where the reference stays; ``None`` where all do, as
        is the rule after the first tile: then :attr:`reference` stays the same tensor. Peaks near 0
        are met by 0, unless there are moments, which are the more exact the nearer a reference is.
        """
        above = peak > self.reference + slack
        if not bool(above.any()):
            return None
        near = slack // 2 if self.moment is None else 0
        level = torch.where(peak.abs() > near, peak.floor(), 0.0)
        factor = self.move_to(torch.where(above, level, self.reference))
        self.at_zero = not bool(self.reference.any())
        return factor

    def move_to(self, reference: Tensor) -> Tensor:
        """Make the sums relative to references that are not lower; return the factors on them."""
        old, self.reference, self.at_zero = self.reference, reference, False
        factor = torch.exp2(old - self.reference)
        if self.moment is not None:
            self.moment = factor * (self.moment + (old - self.reference) * self.total)
        self.total = factor * self.total
        return factor

    def scores(self) -> RowScores:
        """Close the sums once every column was seen."""
        others = self.reference + self.total.log2()
        gap = (others - self.label) * LN_2
        logps = -torch.logaddexp(torch.zeros_like(gap), gap)
        log_z = torch.maximum(others, self.label) + torch.log1p((-gap.abs()).exp()) * LOG2_E
        entropies = None
        if self.moment is not None:
            spread = self.total * (log_z - self.reference) - self.moment
            rest = torch.exp2(self.reference - log_z) * spread * LN_2
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


def lowest(dtype: torch.dtype) -> float:
    """Return half of the smallest number: differences of two such values stay finite."""
    return torch.finfo(dtype).min / 2


def _cap(product: Tensor, outer: Tensor | None) -> Tensor:
    return product if outer is None else product.tanh_().mul_(outer)


def _slope(logits: Tensor, outer: Tensor) -> Tensor:
    return 1 - (logits / outer).square()


def label_slope(scores: RowScores, block: RowBlock) -> Tensor:
    """Slope of the cap at each row's label, ``[R]``; ones without a cap."""
    if block.outer is None:
        return torch.ones_like(scores.label)
    return _slope(scores.label, block.outer[:, 0])


def label_logits(product: Tensor, block: RowBlock, bias: Tensor | None) -> Tensor:
    """Return the labels' logits ``[R]`` from their products with the hidden rows, ``[R]``.

    ``block`` must not be folded; ``bias`` is ``[R]``, that of each label.
    """
    column = (product if bias is None else product + bias)[:, None]
    return _cap(column * block.inner, block.outer)[:, 0]


def fold_tile(
    product: Tensor,
    weights: Tensor,
    block: RowBlock,
    bias: Tensor | None,
    start: int,
    sums: RowSums,
    keep: bool,
) -> Tensor | None:
    """Turn one tile of products into softmax weights and fold their sums into ``sums``.

    Args:
        product: ``[R, C]``, products with the block's hidden rows; overwritten.
        weights: ``[R, C]``, receives ``2 ** (z - reference)``, zero at the labels; may be
            ``product``'s memory unless an entropy is asked for.
        block: the rows.
        bias: ``[C]`` or ``None``.
        start: first column of the tile in the vocabulary.
        sums: running statistics, updated.
        keep: whether the weights are wanted, times the slope of the softcap as a gradient needs it.

    Returns:
        ``[R]``, the factors that bring earlier tiles' weights to the new references; ``None`` if
        those are the old ones.

    """
    if _on_device(product):
        moved: Tensor = _device().fold_tile(product, weights, block, bias, start, sums, keep)
        return moved
    logits = _cap(block.fold(product, bias), block.outer)
    rows, local = block.labels_inside(start, logits.shape[1])
    sums.label[rows] = logits[rows, local]
    logits[rows, local] = -torch.inf
    wide = weights.dtype.itemsize > 2
    factor = sums.raise_to(logits.amax(1), _WIDE_SLACK if wide else SLACK)
    tangent = _slope(logits, block.outer) if keep and block.outer is not None else None
    if not sums.at_zero:
        logits.sub_(sums.reference[:, None])
    torch.exp2(logits, out=weights)
    sums.total += weights.sum(1)
    if sums.moment is not None:
        sums.moment += logits.clamp_(min=lowest(logits.dtype)).mul_(weights).sum(1)
    if tangent is not None:
        weights.mul_(tangent)
        weights[rows, local] = 0
    return factor


class RowCoefficients(NamedTuple):
    """What the gradient of ``R`` rows is made of, each ``[R]`` in the compute dtype.

    The gradient by the product of column ``j`` with the block's hidden row, folded or not, is
    ``p_j (level + tilt log2(p_j))``, but ``label`` at the label, both times the slope of the softcap.
    """

    log_z: Tensor
    level: Tensor
    tilt: Tensor | None
    label: Tensor

    @staticmethod
    def of(block: RowBlock, scores: RowScores, upstream: Upstream) -> RowCoefficients:
        """Combine ``d logp / dz_j = [j = label] - p_j``, ``d entropy / dz_j = -p_j (log p_j + E)``.

        ``scores.entropies`` must be there if the upstream has them.
        """
        slope = (block.slope if block.folded else block.slope * block.inner)[:, 0]
        grad = upstream.logps * slope
        label = -torch.expm1(scores.logps) * grad
        if upstream.entropies is None or scores.entropies is None:
            return RowCoefficients(scores.log_z, -grad, None, label)
        by_entropy = upstream.entropies * slope
        chosen, spread = scores.logps.exp(), scores.logps + scores.entropies
        label = label - by_entropy * torch.where(chosen > 0, chosen * spread, 0.0)
        level = -(grad + by_entropy * scores.entropies)
        return RowCoefficients(scores.log_z, level, -LN_2 * by_entropy, label)

    def select(self, rows: slice) -> RowCoefficients:
        """Return a range of the rows."""
        tilt = None if self.tilt is None else self.tilt[rows]
        return RowCoefficients(self.log_z[rows], self.level[rows], tilt, self.label[rows])


def gradient_tile(
    product: Tensor,
    out: Tensor,
    block: RowBlock,
    bias: Tensor | None,
    start: int,
    coefficients: RowCoefficients,
) -> Tensor:
    """Write the gradient by one tile of products into ``out`` and return it.

    Args:
        product: ``[R, C]``, products with the block's hidden rows; overwritten.
        out: ``[R, C]``, may be ``product``'s memory; receives the gradient.
        block: the rows.
        bias: ``[C]`` or ``None``.
        start: first column of the tile in the vocabulary.
        coefficients: of these rows.

    """
    if _on_device(product):
        _device().gradient_tile(product, out, block, bias, start, coefficients)
        return out
    logits = _cap(block.fold(product, bias), block.outer)
    rows, local = block.labels_inside(start, logits.shape[1])
    tangent = None if block.outer is None else _slope(logits, block.outer)
    logits.sub_(coefficients.log_z[:, None])
    if coefficients.tilt is None:
        logits.exp2_().mul_(coefficients.level[:, None])
    else:
        share = torch.exp2(logits)
        logits.clamp_(min=lowest(logits.dtype)).mul_(coefficients.tilt[:, None])
        logits.add_(coefficients.level[:, None]).mul_(share)
    logits[rows, local] = coefficients.label[rows]
    if tangent is not None:
        logits.mul_(tangent)
    return logits if logits.data_ptr() == out.data_ptr() else out.copy_(logits)


def scale_rows(values: Tensor, factor: Tensor) -> None:
    """Multiply the rows of ``values`` ``[R, C]`` by ``factor`` ``[R]``, in place."""
    if _on_device(values):
        _device().scale_rows(values, factor)
    else:
        values.mul_(factor[:, None])


def _on_device(values: Tensor) -> bool:
    return values.is_cuda and find_spec("triton") is not None


def _device() -> Any:
    # Only here, and only with tensors on a GPU: importing Triton takes a second.
    return import_module("grpoenv_kernels.triton_tile")
