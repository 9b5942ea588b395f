"""The passes of :mod:`grpoenv_kernels.softmax_tile` over a tile on a GPU, as Triton kernels.

Imported only when tensors are on a GPU (or by the tests, on Triton's interpreter).
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpoenv_kernels import triton_kernels
from grpoenv_kernels.head import RowBlock
from grpoenv_kernels.softmax_tile import SLACK, RowCoefficients, RowSums, lowest

__all__ = ["fold_tile", "gradient_tile", "scale_rows"]

_MOST_COLUMNS = 4096


def _columns(width: int) -> int:
    return min(_MOST_COLUMNS, max(128, 1 << (width - 1).bit_length()))


def _form(block: RowBlock, bias: Tensor | None) -> dict[str, bool]:
    return {
        "FOLDED": block.folded,
        "HAS_BIAS": bias is not None,
        "HAS_CAP": block.outer is not None,
    }


def _row_strides(*tiles: Tensor) -> list[int]:
    if any(tile.stride(1) != 1 for tile in tiles):
        raise ValueError("the columns of a tile must be contiguous")
    return [tile.stride(0) for tile in tiles]


def fold_tile(
    product: Tensor,
    weights: Tensor,
    block: RowBlock,
    bias: Tensor | None,
    start: int,
    sums: RowSums,
    keep: bool,
) -> Tensor:
    """As :func:`grpoenv_kernels.softmax_tile.fold_tile`; ``weights`` is left alone unless kept."""
    rows, width = product.shape
    factor = torch.empty_like(sums.total)
    raised = torch.empty_like(sums.total)
    if rows:
        triton_kernels.fold[(rows,)](
            product,
            weights,
            bias,
            block.targets,
            block.inner,
            block.outer,
            sums.reference,
            raised,
            sums.total,
            sums.moment,
            sums.label,
            factor,
            width,
            start,
            *_row_strides(product, weights),
            **_form(block, bias),
            ENTROPY=sums.moment is not None,
            KEEP=keep,
            LOWEST=lowest(product.dtype),
            SLACK=SLACK,
            BLOCK=_columns(width),
            num_warps=8,
        )
    sums.reference = raised
    return factor


def gradient_tile(
    product: Tensor,
    out: Tensor,
    block: RowBlock,
    bias: Tensor | None,
    start: int,
    coefficients: RowCoefficients,
) -> Tensor:
    """As :func:`grpoenv_kernels.softmax_tile.gradient_tile`."""
    rows, width = product.shape
    if rows:
        triton_kernels.gradient[(rows,)](
            product,
            out,
            bias,
            block.targets,
            block.inner,
            block.outer,
            coefficients.log_z,
            coefficients.level,
            coefficients.tilt,
            coefficients.label,
            width,
            start,
            *_row_strides(product, out),
            **_form(block, bias),
            TILTED=coefficients.tilt is not None,
            LOWEST=lowest(product.dtype),
            BLOCK=_columns(width),
            num_warps=8,
        )
    return out


def scale_rows(values: Tensor, factor: Tensor) -> None:
    """As :func:`grpoenv_kernels.softmax_tile.scale_rows`, without a look at the factors here."""
    rows, width = values.shape
    if rows:
        triton_kernels.scale[(rows,)](
            values, factor, width, *_row_strides(values), BLOCK=_columns(width)
        )
