"""A language-model head and the blocks of rows and columns that it is evaluated in.

Shape letters used in this package: ``N`` rows (tokens), ``n`` the rows that are scored, ``R`` rows
of one block, ``H`` hidden size, ``V`` vocabulary, ``C`` columns of one vocabulary tile.

A head maps a hidden row ``h`` to logits ``z = f(s * (W h + b)) / T`` with the scale ``s``, the
temperature ``T`` of the row, and ``f(x) = cap * tanh(x / cap)`` or the identity. Inside the package
logits are held in base 2, ``z * log2(e)``: ``exp2`` costs less than half of ``exp`` in vectorised
CPU code, and the factor is folded into the hidden rows, where it costs nothing.

Matrix products take operands in the compute dtype, or on a GPU in bfloat16 or float16 as they come:
then sums and results are float32 nevertheless, and what would have been folded into the hidden rows
(and rounded there) is applied to the result.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES, Limits, StoredPlan, TilePlan

if TYPE_CHECKING:
    from grpoenv_kernels.softmax_tile import RowScores, RowSums

__all__ = [
    "LN_2",
    "LOG2_E",
    "Gradients",
    "Head",
    "HeadOptions",
    "Needs",
    "RowBlock",
    "accumulate",
    "area",
    "compute_dtype",
    "multiply",
]

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


@dataclass(frozen=True)
class HeadOptions:
    """What happens to a logit between the matrix product and the softmax.

    Args:
        temperature: divisor of the logits, a positive number or a positive tensor ``[N]``.
        softcap: logits become ``softcap * tanh(logit / softcap)`` before the temperature divides
            them; ``None`` for no cap.
        logit_scale: factor on the logits before the cap.

    Raises:
        ValueError: a non-positive temperature or cap, or a scale that is zero or not finite.

    """

    temperature: float | Tensor = 1.0
    softcap: float | None = None
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, Tensor) and not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if isinstance(self.temperature, Tensor) and bool((self.temperature <= 0).any()):
            raise ValueError("temperature must be positive in every row")
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap must be positive or None, got {self.softcap}")
        if self.logit_scale == 0 or not math.isfinite(self.logit_scale):
            raise ValueError(f"logit_scale must be finite and not zero, got {self.logit_scale}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type that products are computed and summed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def area(memory: Tensor, rows: int, columns: int, first: int = 0) -> Tensor:
    """Return the elements of flat memory from ``first`` on as ``[rows, columns]``."""
    return memory[first : first + rows * columns].view(rows, columns)


def multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Write ``left @ right`` into ``out``, whose dtype is that of the sums."""
    if left.dtype == out.dtype:
        return torch.mm(left, right, out=out)
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=out.dtype, out=out)
    return torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


def accumulate(into: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Add ``left @ right`` to ``into``, whose dtype is that of the sums."""
    if left.dtype == into.dtype:
        return torch.addmm(into, left, right, out=into)
    if left.is_cuda:
        return torch.addmm(into, left, right, out_dtype=into.dtype, out=into)
    return torch.addmm(into, left.to(into.dtype), right.to(into.dtype), out=into)


@dataclass(frozen=True)
class RowBlock:
    """Rows that are evaluated together.

    The folded product is ``u = inner * (W h + b)``. In base 2 a logit is ``u`` itself, or
    ``outer * tanh(u)`` with a softcap; ``slope`` is the derivative of the natural logit by ``u``,
    less the slope of ``tanh``.

    Attributes:
        hidden: ``[R, H]``, the operand of the product: the hidden rows times ``inner`` if
            ``folded``, else as they are.
        folded: whether the product with ``hidden`` is the folded one, but for the bias.
        targets: ``[R]`` int64, the label of each row.
        inner: ``[R, 1]`` in the compute dtype, like all that follow.
        outer: ``[R, 1]``, ``None`` without a softcap.
        slope: ``[R, 1]``.

    """

    hidden: Tensor
    folded: bool
    targets: Tensor
    inner: Tensor
    outer: Tensor | None
    slope: Tensor

    def select(self, rows: Tensor | slice) -> RowBlock:
        """Return the given rows of the block (int64 positions or a range)."""
        outer = None if self.outer is None else self.outer[rows]
        return RowBlock(
            self.hidden[rows],
            self.folded,
            self.targets[rows],
            self.inner[rows],
            outer,
            self.slope[rows],
        )

    @cached_property
    def _by_label(self) -> tuple[Tensor, Tensor, list[int]]:
        labels, rows = self.targets.sort(stable=True)
        return labels, rows, labels.tolist()

    def labels_inside(self, start: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the rows whose label lies in a tile, and its column there; both int64 ``[r]``."""
        labels, rows, known = self._by_label
        inside = slice(bisect_left(known, start), bisect_left(known, start + width))
        return rows[inside], labels[inside] - start

    def folded_hidden(self) -> Tensor:
        """Return the hidden rows times ``inner``, ``[R, H]`` in the compute dtype."""
        return self.hidden if self.folded else self.hidden.to(self.inner.dtype) * self.inner

    def weighing(self) -> Tensor:
        """Return the factor ``[R]`` between a bias and the block's product, ones if not folded."""
        return self.inner[:, 0] if self.folded else torch.ones_like(self.inner[:, 0])

    def fold(self, product: Tensor, bias: Tensor | None) -> Tensor:
        """Turn a product ``hidden @ W'`` of one tile into the folded one, in place."""
        if not self.folded:
            product.mul_(self.inner)
        if bias is not None:
            product.addcmul_(self.inner, bias[None, :])
        return product


class Gradients(NamedTuple):
    """Gradients of the head's inputs, ``None`` where not needed.

    Attributes:
        hidden: ``[r, H]`` in the compute dtype, for the rows it was computed for.
        weight: ``[V, H]`` in the weight's dtype.
        bias: ``[V]`` in the bias's dtype.
        adapter: ``[V, r]`` in the adapter's dtype.

    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    adapter: Tensor | None

    def columns(self) -> list[tuple[Tensor, slice]]:
        """Return the gradients of weight and adapter that are there, with their columns of hidden.

        The adapter has the last ``r`` columns, the weight those before.
        """
        width = None if self.weight is None else self.weight.shape[1]
        parts = [] if self.weight is None else [(self.weight, slice(0, width))]
        if self.adapter is not None:
            parts.append((self.adapter, slice(-self.adapter.shape[1], None)))
        return parts


# Whether the gradients of hidden, weight, bias and adapter are needed.
Needs = tuple[bool, bool, bool, bool]


@dataclass(frozen=True)
class Head:
    """Hidden rows, the head's parameters and the options, as one problem to evaluate.

    Attributes:
        hidden: ``[N, H]``, any strides; ``[N, H + r]`` with an adapter.
        weight: ``[V, H]``.
        bias: ``[V]`` or ``None``.
        adapter: ``[V, r]`` or ``None``, more columns of the weight.
        targets: ``[N]`` int64.
        options: see :class:`HeadOptions`.
        budget: bytes of working memory, 0 for the device's own limit.

    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    adapter: Tensor | None
    targets: Tensor
    options: HeadOptions
    budget: int = DEFAULT_BUDGET_BYTES

    @property
    def limits(self) -> Limits:
        """What suits the device, within the budget if there is one."""
        limits = Limits.of(self.weight.device.type)
        return replace(limits, budget=self.budget) if self.budget else limits

    @property
    def shape(self) -> tuple[int, int]:
        """``(V, H)``, or ``(V, H + r)`` with an adapter."""
        return self.weight.shape[0], self.hidden.shape[1]

    @property
    def plan_shape(self) -> tuple[int, int]:
        """The shape that says how many rows can be kept."""
        return self.shape

    @cached_property
    def dtype(self) -> torch.dtype:
        """Compute dtype of the problem."""
        return compute_dtype(torch.promote_types(self.hidden.dtype, self.weight.dtype))

    @cached_property
    def operand(self) -> torch.dtype:
        """Dtype in which matrices enter products."""
        dtype = self.weight.dtype
        mixed = self.weight.is_cuda and hasattr(torch.ops.aten.addmm, "dtype_out")
        return dtype if mixed and dtype == self.hidden.dtype else self.dtype

    def empty(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return uninitialised memory, by default of no elements and in the compute dtype."""
        return torch.empty(size or (0,), dtype=dtype or self.dtype, device=self.weight.device)

    def streaming_plan(self, rows: int) -> TilePlan:
        """Plan blocks whose logits are dropped tile by tile."""
        return TilePlan.streaming(rows, self.shape, self.dtype.itemsize, self.limits)

    def pitch(self, gradient: Tensor) -> int:
        """Return how many kept weights fit into the memory of one column's weight gradient."""
        column = gradient.shape[1] * gradient.itemsize
        return 0 if column % self.operand.itemsize else column // self.operand.itemsize

    def stored_plan(self, rows: int, lent: Tensor | None, adds: bool) -> StoredPlan:
        """Plan a sweep that keeps softmax weights, also in the memory of the gradient ``lent``.

        ``adds`` says whether one round of rows can add to the gradients of another.
        """
        fit = 0 if lent is None else self.pitch(lent)
        sizes = self.dtype.itemsize, self.operand.itemsize
        return StoredPlan.of(rows, self.plan_shape, *sizes, self.limits, lent=fit, adds=adds)

    def new_hidden_gradient(self, rows: int) -> Tensor:
        """Return memory for finished gradients of hidden rows, ``[rows, H]``.

        In the dtype of hidden, but for float16: its range cannot hold a gradient that a loss
        scaler has not yet scaled.
        """
        half = self.hidden.dtype == torch.float16
        return self.empty(rows, self.shape[1], dtype=None if half else self.hidden.dtype)

    def new_gradients(self, rows: int, needs: Needs) -> Gradients:
        """Return zeros for ``rows`` hidden rows; the other gradients are uninitialised."""
        hidden = self.empty(rows, self.shape[1]).zero_() if needs[0] else None
        weight = self.weight.new_empty(self.weight.shape) if needs[1] else None
        adapter = None
        if needs[3] and self.adapter is not None:
            adapter = self.adapter.new_empty(self.adapter.shape)
        bias = self.bias.new_empty(self.shape[0]) if needs[2] and self.bias is not None else None
        return Gradients(hidden, weight, bias, adapter)

    @property
    def folds(self) -> bool:
        """Whether ``inner`` is folded into the hidden rows."""
        return self.operand == self.dtype

    def inner(self, rows: Tensor) -> Tensor:
        """Return the factor on the product of each of the rows, ``[R, 1]``."""
        if self.options.softcap is None:
            return self._by_temperature(rows, self.options.logit_scale * LOG2_E)
        return self._ones(rows) * (self.options.logit_scale / self.options.softcap)

    def outer(self, rows: Tensor) -> Tensor | None:
        """Return the factor on the ``tanh`` of each of the rows, ``[R, 1]``."""
        softcap = self.options.softcap
        return None if softcap is None else self._by_temperature(rows, softcap * LOG2_E)

    def slope(self, rows: Tensor) -> Tensor:
        """Return the slope of the natural logit by the folded product, ``[R, 1]``."""
        softcap = self.options.softcap
        return self._ones(rows) * LN_2 if softcap is None else self._by_temperature(rows, softcap)

    def _ones(self, rows: Tensor) -> Tensor:
        return torch.ones(len(rows), 1, dtype=self.dtype, device=self.hidden.device)

    def _by_temperature(self, rows: Tensor, factor: float) -> Tensor:
        temperature = self.options.temperature
        if isinstance(temperature, Tensor):
            return factor / temperature[rows].to(self.dtype)[:, None]
        return self._ones(rows) * (factor / temperature)

    def block(self, rows: Tensor) -> RowBlock:
        """Gather and scale the given rows (int64 ``[R]``, positions in ``hidden``)."""
        inner, hidden = self.inner(rows), self.hidden[rows]
        if self.folds:
            hidden = hidden.to(self.dtype) * inner
        outer, slope = self.outer(rows), self.slope(rows)
        return RowBlock(hidden, self.folds, self.targets[rows], inner, outer, slope)

    def close(self, sums: RowSums) -> RowScores:
        """Return the scores of rows of which every column was seen."""
        return sums.scores()

    def columns(self, tile: slice) -> Tensor:
        """Return the weight rows of a vocabulary tile as an operand, ``[C, H]``."""
        return self._joined(self.weight[tile], self.adapter, tile).to(self.operand)

    def label_rows(self, targets: Tensor) -> Tensor:
        """Return the weight rows of labels in the compute dtype, ``[R, H]``."""
        return self._joined(self.weight[targets], self.adapter, targets).to(self.dtype)

    @staticmethod
    def _joined(weight: Tensor, adapter: Tensor | None, rows: Tensor | slice) -> Tensor:
        return weight if adapter is None else torch.cat([weight, adapter[rows]], 1)

    def biases(self, tile: slice) -> Tensor | None:
        """Return the bias of a vocabulary tile in the compute dtype, ``[C]``."""
        return None if self.bias is None else self.bias[tile].to(self.dtype)
