"""A loss that is a sum of one term for each row, its derivative, and what a sweep finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.head import Gradients
from grpoenv_kernels.softmax_tile import RowScores

__all__ = ["Objective", "Swept", "row_terms"]

Objective = Callable[[Tensor, Tensor], Tensor]


class Swept(NamedTuple):
    """What one sweep over ``n`` rows found.

    Attributes:
        loss: scalar.
        scores: of the rows.
        by_logps: ``[n]``, derivatives of the loss by the log-probabilities.
        gradients: by hidden ``[n, H]``, weight and bias, as far as the sweep takes them.

    """

    loss: Tensor
    scores: RowScores
    by_logps: Tensor
    gradients: Gradients


def row_terms(
    objective: Objective, logps: Tensor, rows: Tensor, graded: bool
) -> tuple[Tensor, Tensor]:
    """Return the objective's terms ``[R]`` and their derivatives ``[R]`` by the log-probabilities.

    The derivatives are zeros, and the autograd engine is not entered, unless ``graded``.

    Raises:
        ValueError: the objective did not return one term for each row.

    """
    with torch.set_grad_enabled(graded):
        leaf = logps.detach().requires_grad_(graded)
        terms = objective(leaf, rows)
        if terms.shape != logps.shape:
            raise ValueError(f"objective returned {list(terms.shape)}, not {list(logps.shape)}")
        if not terms.requires_grad:
            return terms.to(logps.dtype), torch.zeros_like(logps)
        (grad,) = torch.autograd.grad(terms.sum(), leaf)
    return terms.detach().to(logps.dtype), grad
