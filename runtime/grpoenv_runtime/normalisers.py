"""How each variant weighs its tokens: every reduction is a sum with weights known from the mask.

``G`` is the number of micro-batches of the current accumulation window, 1 in evaluation; ``n_b``
the number of valid tokens of sequence ``b``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Normalisation",
    "Normaliser",
    "per_batch_token",
    "per_generated_token",
    "per_padded_token",
    "per_sequence",
    "per_sequence_token",
]


class Normalisation(NamedTuple):
    """Where the micro-batch stands in training.

    Attributes:
        max_completion_length: length that dr_grpo divides by, in tokens.
        num_items_in_batch: valid tokens of the whole generation batch over all processes, a number
            or a scalar tensor; ``None`` takes the tokens of the batch at hand.
        num_processes: processes that train together.
        current_gradient_accumulation_steps: ``G``.
        steps_per_generation: micro-batches that one generation batch is split into.
        training: ``False`` in evaluation, where a batch is neither split nor accumulated.

    """

    max_completion_length: int | None = None
    num_items_in_batch: float | Tensor | None = None
    num_processes: int = 1
    current_gradient_accumulation_steps: int = 1
    steps_per_generation: int = 1
    training: bool = True

    @property
    def accumulation(self) -> int:
        """``G``."""
        return self.current_gradient_accumulation_steps if self.training else 1


Normaliser = Callable[[Normalisation, Tensor, torch.dtype], Tensor]


def per_sequence_token(where: Normalisation, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean over sequences of the mean over tokens: ``1 / (B n_b G)`` (arXiv 2402.03300, eq. 3)."""
    tokens = mask.sum(1, keepdim=True).clamp(min=1).to(dtype)
    return 1 / (tokens * max(mask.shape[0], 1) * where.accumulation)


def per_batch_token(where: Normalisation, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean over the tokens of the micro-batch: ``1 / (sum n_b G)``."""
    return 1 / (mask.sum().clamp(min=1).to(dtype) * where.accumulation).expand(1, 1)


def per_padded_token(where: Normalisation, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """``1 / (B max_completion_length G)`` (Dr. GRPO, arXiv 2503.20783).

    Raises:
        ValueError: no ``max_completion_length`` was given.

    """
    if where.max_completion_length is None:
        raise ValueError("loss_type 'dr_grpo' needs max_completion_length")
    length = max(mask.shape[0], 1) * where.max_completion_length * where.accumulation
    return torch.full((1, 1), 1 / length, dtype=dtype, device=mask.device)


def per_generated_token(where: Normalisation, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """One over this process's share of the generation batch's tokens (DAPO, arXiv 2503.14476).

    In training the share is ``max(items, 1) / processes * G / steps_per_generation``: the count
    spans the generation batch, of which an accumulation window holds a part.
    """
    items = mask.sum() if where.num_items_in_batch is None else where.num_items_in_batch
    count = torch.as_tensor(items, device=mask.device).to(dtype).clamp(min=1.0)
    share = count / where.num_processes
    if where.training:
        share = share * where.accumulation / where.steps_per_generation
    return (1 / share).expand(1, 1)


def per_sequence(where: Normalisation, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean over sequences of the sum over tokens: ``1 / (B G)`` (LUSPO, arXiv 2602.05261)."""
    sequences = max(mask.shape[0], 1) * where.accumulation
    return torch.full((1, 1), 1 / sequences, dtype=dtype, device=mask.device)
