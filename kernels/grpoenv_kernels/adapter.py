"""A low-rank part of a head, such as an adapter (LoRA, Hu et al., arXiv 2106.09685, equation 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LowRank", "widen"]


class LowRank(NamedTuple):
    """Logits ``rows @ up'`` that are added to those of the head; their sum is never a weight.

    Attributes:
        rows: ``[N, r]``.
        up: ``[V, r]``, in the dtype of the weight.

    """

    rows: Tensor
    up: Tensor

    @classmethod
    def lora(cls, hidden: Tensor, down: Tensor, up: Tensor, scaling: float = 1.0) -> LowRank:
        """Return the adapter of the head ``weight + scaling * up @ down``.

        Args:
            hidden: ``[N, H]``, the rows that the head is given; with LoRA's dropout, after it.
            down: ``[r, H]``, called A in the paper.
            up: ``[V, r]``, called B.
            scaling: the paper's ``alpha / r``.

        Raises:
            ValueError: ``down`` does not fit ``hidden``.

        """
        if down.dim() != 2 or down.shape[1] != hidden.shape[-1]:
            raise ValueError(f"down must be [r, {hidden.shape[-1]}], got {list(down.shape)}")
        return cls(torch.nn.functional.linear(hidden, down.to(hidden.dtype)) * scaling, up)


def widen(hidden: Tensor, weight: Tensor, low_rank: LowRank) -> Tensor:
    """Return ``[N, H + r]``: the hidden rows beside those of the low-rank part.

    Their product with the weight and ``up`` side by side is the whole head's.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    """
    rows, up = low_rank
    if rows.dim() != 2 or rows.shape[0] != hidden.shape[0]:
        raise ValueError(f"low_rank.rows must be [{hidden.shape[0]}, r], got {list(rows.shape)}")
    if up.shape != (weight.shape[0], rows.shape[1]):
        raise ValueError(
            f"low_rank.up must be [{weight.shape[0]}, {rows.shape[1]}], got {list(up.shape)}"
        )
    if up.dtype != weight.dtype:
        raise ValueError(f"low_rank.up must be {weight.dtype} like the weight, got {up.dtype}")
    return torch.cat([hidden, rows.to(hidden.dtype)], 1)
