"""A language-model head and the blocks of rows and columns that it is evaluated in.

Shape letters used in this package: ``N`` rows (tokens), ``n`` the rows that are scored, ``R`` rows
of one block, ``H`` hidden size, ``V`` vocabulary, ``C`` columns of one vocabulary tile.

A head maps a hidden row ``h`` to logits ``z = f(s * (W h + b)) / T`` with the scale ``s``, the
temperature ``T`` of the row, and ``f(x) = cap * tanh(x / cap)`` or the identity. Inside the package
logits are held in base 2, ``z * log2(e)``: ``exp2`` costs less than half of ``exp`` in vectorised
CPU code, and the factor is folded into the hidden rows, where it costs nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LN_2", "LOG2_E", "Gradients", "Head", "HeadOptions", "RowBlock", "compute_dtype"]

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


@dataclass(frozen=True)
class RowBlock:
    """Rows that are evaluated together, in the compute dtype.

    The folded product is ``u = inner * (W h + b)``. In base 2 a logit is ``u`` itself, or
    ``outer * tanh(u)`` with a softcap; ``slope`` is the derivative of the natural logit by ``u``,
    less the slope of ``tanh``.

    Attributes:
        hidden: ``[R, H]``, the hidden rows times ``inner``.
        targets: ``[R]`` int64, the label of each row.
        inner: ``[R, 1]``.
        outer: ``[R, 1]``, ``None`` without a softcap.
        slope: ``[R, 1]``.

    """

    hidden: Tensor
    targets: Tensor
    inner: Tensor
    outer: Tensor | None
    slope: Tensor

    def select(self, rows: Tensor | slice) -> RowBlock:
        """Return the given rows of the block (int64 positions or a range)."""
        outer = None if self.outer is None else self.outer[rows]
        return RowBlock(
            self.hidden[rows], self.targets[rows], self.inner[rows], outer, self.slope[rows]
        )


class Gradients(NamedTuple):
    """Gradients of the head's inputs, ``None`` where not needed.

    Attributes:
        hidden: ``[r, H]`` in the compute dtype, for the rows it was computed for.
        weight: ``[V, H]`` in the weight's dtype.
        bias: ``[V]`` in the bias's dtype.

    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True)
class Head:
    """Hidden rows, the head's parameters and the options, as one problem to evaluate.

    Attributes:
        hidden: ``[N, H]``, any strides.
        weight: ``[V, H]``.
        bias: ``[V]`` or ``None``.
        targets: ``[N]`` int64.
        options: see :class:`HeadOptions`.

    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    options: HeadOptions

    @property
    def shape(self) -> tuple[int, int]:
        """``(V, H)``."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype of the problem."""
        return compute_dtype(torch.promote_types(self.hidden.dtype, self.weight.dtype))

    def empty(self, *size: int) -> Tensor:
        """Return uninitialised memory in the compute dtype; one dimension of 0 without a size."""
        return torch.empty(size or (0,), dtype=self.dtype, device=self.weight.device)

    def new_gradients(self, rows: int, needs: tuple[bool, bool, bool]) -> Gradients:
        """Return zeros for ``rows`` hidden rows, and uninitialised weight and bias gradients."""
        hidden = self.empty(rows, self.shape[1]).zero_() if needs[0] else None
        weight = self.weight.new_empty(self.shape) if needs[1] else None
        bias = self.bias.new_empty(self.shape[0]) if needs[2] and self.bias is not None else None
        return Gradients(hidden, weight, bias)

    def block(self, rows: Tensor) -> RowBlock:
        """Gather and scale the given rows (int64 ``[R]``, positions in ``hidden``)."""
        options, dtype = self.options, self.dtype
        temperature = options.temperature
        if isinstance(temperature, Tensor):
            temperature = temperature[rows].to(dtype)
        ones = torch.ones(rows.shape[0], 1, dtype=dtype, device=self.hidden.device)
        column = temperature[:, None] if isinstance(temperature, Tensor) else temperature
        if options.softcap is None:
            inner, outer = ones * (options.logit_scale * LOG2_E) / column, None
            slope = ones * LN_2
        else:
            inner = ones * (options.logit_scale / options.softcap)
            outer = ones * (options.softcap * LOG2_E) / column
            slope = ones * options.softcap / column
        hidden = self.hidden[rows].to(dtype) * inner
        return RowBlock(hidden, self.targets[rows], inner, outer, slope)

    def columns(self, tile: slice) -> Tensor:
        """Return the weight rows of a vocabulary tile, ``[C, H]``, in the compute dtype."""
        return self.weight[tile].to(self.dtype)

    def product(self, block: RowBlock, tile: slice, weight: Tensor, out: Tensor) -> Tensor:
        """Write the folded product ``inner * (W h + b)`` of one tile into ``out`` ``[R, C]``."""
        torch.mm(block.hidden, weight.t(), out=out)
        if self.bias is not None:
            out.addcmul_(block.inner, self.bias[tile].to(self.dtype)[None, :])
        return out
