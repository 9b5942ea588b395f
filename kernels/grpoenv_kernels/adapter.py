"""Low-rank adapters on a head (LoRA, Hu et al., arXiv 2106.09685, equation 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LoraAdapter", "widen"]


class LoraAdapter(NamedTuple):
    """The head ``weight + scaling * up @ down``, which is never formed.

    Attributes:
        down: ``[r, H]``, called A in the paper.
        up: ``[V, r]``, called B, in the dtype of the weight.
        scaling: the paper's ``alpha / r``.

    """

    down: Tensor
    up: Tensor
    scaling: float = 1.0


def widen(hidden: Tensor, weight: Tensor, lora: LoraAdapter) -> Tensor:
    """Return ``[N, H + r]``: the hidden rows beside ``scaling * hidden @ down'``.

    Their product with the weight and ``up`` side by side is the adapted head's. Autograd finds the
    gradients of ``down`` and of the hidden rows from it.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    """
    rank = lora.down.shape[0]
    if lora.down.dim() != 2 or lora.down.shape[1] != hidden.shape[-1]:
        raise ValueError(f"lora.down must be [r, {hidden.shape[-1]}], got {list(lora.down.shape)}")
    if lora.up.shape != (weight.shape[0], rank):
        raise ValueError(f"lora.up must be [{weight.shape[0]}, {rank}], got {list(lora.up.shape)}")
    if lora.up.dtype != weight.dtype:
        raise ValueError(f"lora.up must be {weight.dtype} like the weight, got {lora.up.dtype}")
    low = torch.nn.functional.linear(hidden, lora.down.to(hidden.dtype)) * lora.scaling
    return torch.cat([hidden, low.to(hidden.dtype)], 1)
