"""Per-token log-probabilities and entropies of a linear head, without ``[N, V]`` logits.

Forward costs one matrix product unit ``U = 2 n H V``; backward recomputes the logits of the rows
with a non-zero upstream gradient and costs ``U`` each for the logits, the hidden gradient and the
weight gradient, as far as they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpoenv_kernels.head import Head, HeadOptions
from grpoenv_kernels.passes import differentiate, score
from grpoenv_kernels.softmax_tile import RowScores, Upstream
from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES

__all__ = ["TokenScores", "check_shapes", "linear_logprob", "scored_rows", "spread_rows"]


class TokenScores(NamedTuple):
    """Log-probabilities and entropies of ``N`` rows in nats, each ``[N]``, float32 or float64.

    Attributes:
        logps: log-probability of each row's target; 0 in rows without a label.
        entropies: entropy of each row's distribution, 0 in rows without a label; ``None`` unless
            asked for.

    """

    logps: Tensor
    entropies: Tensor | None


def check_shapes(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    """Raise ``ValueError`` unless the arguments fit together and every label is below ``V``."""
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            "hidden must be [N, H] and weight [V, H], "
            f"got {list(hidden.shape)} and {list(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets must be [{hidden.shape[0]}], got {list(targets.shape)}")
    if targets.dtype.is_floating_point or targets.dtype == torch.bool:
        raise ValueError(f"targets must be integers, got {targets.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    if targets.numel() and int(targets.max()) >= weight.shape[0]:
        raise ValueError(f"target {int(targets.max())} is outside a vocabulary of {len(weight)}")


def scored_rows(targets: Tensor) -> Tensor:
    """Return the positions of the rows with a label, int64 ``[n]``; a label is not negative."""
    return (targets >= 0).nonzero()[:, 0]


def spread_rows(values: Tensor, rows: Tensor, length: int) -> Tensor:
    """Return ``[length, ...]`` zeros with ``values`` ``[n, ...]`` at the positions ``rows``."""
    if len(rows) == length:
        return values
    return values.new_zeros(length, *values.shape[1:]).index_copy_(0, rows, values)


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        options: HeadOptions,
        entropy: bool,
        budget: int,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        head = Head(hidden, weight, bias, targets, options, budget)
        rows = scored_rows(targets)
        with torch.autocast(hidden.device.type, enabled=False):
            found = score(head, rows, entropy)
        ctx.save_for_backward(
            hidden,
            weight,
            bias,
            targets,
            rows,
            found.logps,
            found.log_z,
            found.label,
            found.entropies,
        )
        ctx.options, ctx.budget = options, budget
        logps = spread_rows(found.logps, rows, len(targets))
        if found.entropies is None:
            return logps.clone(), None
        return logps.clone(), spread_rows(found.entropies, rows, len(targets)).clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_logps: Tensor | None, by_entropies: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, rows, *columns = ctx.saved_tensors
        head, scores = (
            Head(hidden, weight, bias, targets, ctx.options, ctx.budget),
            RowScores(*columns),
        )
        upstream, counts = _upstream(by_logps, by_entropies, rows, head.dtype)
        if upstream is None:
            return (None,) * 7
        live = counts.nonzero()[:, 0]
        with torch.autocast(hidden.device.type, enabled=False):
            found = differentiate(
                head,
                rows[live],
                scores.select(live),
                upstream.select(live),
                ctx.needs_input_grad[:3],
            )
        by_hidden = found.hidden
        if by_hidden is not None:
            by_hidden = spread_rows(by_hidden.to(hidden.dtype), rows[live], len(targets))
        return by_hidden, found.weight, found.bias, None, None, None, None


def _upstream(
    by_logps: Tensor | None, by_entropies: Tensor | None, rows: Tensor, dtype: torch.dtype
) -> tuple[Upstream | None, Tensor]:
    """Gather the upstream gradients of ``rows`` and mark the rows where one is not zero."""
    given = by_logps if by_logps is not None else by_entropies
    if given is None:
        return None, rows.new_zeros(0)
    zeros = given.new_zeros(len(rows), dtype=dtype)
    logps = zeros if by_logps is None else by_logps[rows].to(dtype)
    live = logps != 0
    if by_entropies is None:
        return Upstream(logps, None), live
    entropies = by_entropies[rows].to(dtype)
    return Upstream(logps, entropies), live | (entropies != 0)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> TokenScores:
    """Score ``targets`` under ``softmax(f(logit_scale * (hidden W' + bias)) / temperature)``.

    Products are summed in float32 (float64 for float64 inputs) whatever the input dtype and
    whatever autocast says; gradients come back in the dtypes of their inputs. Differentiable once,
    by ``hidden``, ``weight`` and ``bias``. The same inputs give the same bits.

    Args:
        hidden: ``[N, H]`` floating point, any strides.
        weight: ``[V, H]`` floating point.
        targets: ``[N]`` integers below ``V``; a row with a negative one is not scored and costs
            nothing.
        bias: ``[V]`` or ``None``.
        temperature: a positive number, or one for each row as a tensor ``[N]``; no gradient.
        softcap: cap ``c`` of ``f(x) = c tanh(x / c)``, ``None`` for the identity.
        logit_scale: factor on the logits before the cap.
        entropy: compute the entropies as well (one more elementwise pass).
        budget_bytes: working memory for tiles, 0 for 112 MiB on a CPU and 480 MiB on a GPU; the
            values do not depend on it beyond rounding.

    Raises:
        ValueError: shapes that do not fit, a target outside the vocabulary, a temperature or cap
            that is not positive.

    """
    check_shapes(hidden, weight, targets, bias)
    options = HeadOptions(temperature, softcap, logit_scale)
    apply: Callable[..., tuple[Tensor, Tensor | None]] = _LinearLogprob.apply
    found = apply(hidden, weight, bias, targets.long(), options, entropy, budget_bytes)
    return TokenScores(*found)
