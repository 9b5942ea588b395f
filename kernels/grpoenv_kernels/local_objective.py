"""The derivative of a loss that is a sum of one term for each row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["row_terms"]


def row_terms(
    objective: Callable[[Tensor, Tensor], Tensor], logps: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the objective's terms ``[R]`` and their derivatives ``[R]`` by the log-probabilities.

    Raises:
        ValueError: the objective did not return one term for each row.

    """
    with torch.enable_grad():
        leaf = logps.detach().requires_grad_()
        terms = objective(leaf, rows)
        if terms.shape != logps.shape:
            raise ValueError(f"objective returned {list(terms.shape)}, not {list(logps.shape)}")
        if not terms.requires_grad:
            return terms, torch.zeros_like(logps)
        (grad,) = torch.autograd.grad(terms.sum(), leaf)
    return terms.detach().to(logps.dtype), grad
