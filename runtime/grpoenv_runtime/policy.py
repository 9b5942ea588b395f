"""What a policy contributes to the loss, and what comes back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import compute_dtype
from grpoenv_runtime.batch import Batch

__all__ = ["LossOutput", "Policy"]


class Policy(NamedTuple):
    """The policy's last hidden states and its head.

    Attributes:
        hidden: ``(B, T, H)``; position ``t`` is the state that predicts ``ids[:, t]``.
        weight: ``(V, H)``.
        bias: ``(V,)`` or ``None``.

    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What losses are computed in: float64 for float64 tensors, else float32."""
        return compute_dtype(torch.promote_types(self.hidden.dtype, self.weight.dtype))

    def check(self, batch: Batch) -> None:
        """Raise ``ValueError`` unless ``hidden`` belongs to ``batch`` and ``weight``."""
        if self.hidden.dim() != 3 or self.hidden.shape[:2] != batch.mask.shape:
            raise ValueError(
                f"hidden must be (B, T, H) with (B, T) = {tuple(batch.mask.shape)}, "
                f"got {tuple(self.hidden.shape)}"
            )


class LossOutput(NamedTuple):
    """A loss, its metrics and the log-probabilities.

    Attributes:
        loss: scalar, with gradient.
        metrics: trl's figures by name, scalars without gradient; empty unless asked for.
        logps: ``(B, T)``, 0 where masked or not scored, without gradient.

    """

    loss: Tensor
    metrics: dict[str, Tensor]
    logps: Tensor
