"""Per-token log-probabilities and entropies of a linear head, without ``[N, V]`` logits.

Forward costs one matrix product unit ``U = 2 n H V``; backward recomputes the logits of the rows
with a non-zero upstream gradient and costs ``U`` each for the logits, the hidden gradient and the
weight gradient, as far as they are asked for.

Both are operators of ``torch.library``, so a compiler traces around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.adapter import LowRank, widen
from grpoenv_kernels.head import Head, HeadOptions, compute_dtype
from grpoenv_kernels.passes import differentiate, score
from grpoenv_kernels.sharded import gather_sharded
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


def check_shapes(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    adapter: Tensor | None = None,
    vocabulary: int | None = None,
) -> None:
    """Raise ``ValueError`` unless the arguments fit together.

    Every label must be below ``vocabulary``, which is ``V`` unless the weight is a part of a head.
    """
    rank = 0 if adapter is None else adapter.shape[1]
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1] + rank:
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
    size = len(weight) if vocabulary is None else vocabulary
    if targets.numel() and int(targets.max()) >= size:
        raise ValueError(f"target {int(targets.max())} is outside a vocabulary of {size}")


def scored_rows(targets: Tensor) -> Tensor:
    """Return the positions of the rows with a label, int64 ``[n]``; a label is not negative."""
    return (targets >= 0).nonzero()[:, 0]


def spread_rows(values: Tensor, rows: Tensor, length: int) -> Tensor:
    """Return ``[length, ...]`` zeros with ``values`` ``[n, ...]`` at the positions ``rows``."""
    if len(rows) == length:
        return values
    return values.new_zeros(length, *values.shape[1:]).index_copy_(0, rows, values)


def _options(
    temperature: float, temperatures: Tensor | None, softcap: float | None, logit_scale: float
) -> HeadOptions:
    return HeadOptions(temperature if temperatures is None else temperatures, softcap, logit_scale)


def _scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    adapter: Tensor | None,
    targets: Tensor,
    temperature: float,
    temperatures: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    entropy: bool,
    budget: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logps, entropies (or an empty tensor), and the base-2 log Z and label of all rows."""
    check_shapes(hidden, weight, targets, bias, adapter)
    options = _options(temperature, temperatures, softcap, logit_scale)
    head = Head(hidden, weight, bias, adapter, targets.long(), options, budget)
    rows = scored_rows(targets)
    with torch.autocast(hidden.device.type, enabled=False):
        found = score(head, rows, entropy)
    entropies = found.logps.new_empty(0)
    if found.entropies is not None:
        entropies = spread_rows(found.entropies, rows, len(targets))
    columns = (found.logps, found.log_z, found.label)
    logps, log_z, label = (spread_rows(values, rows, len(targets)) for values in columns)
    return logps, entropies, log_z, label


def _fake_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    adapter: Tensor | None,
    targets: Tensor,
    temperature: float,
    temperatures: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    entropy: bool,
    budget: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = compute_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    logps, log_z, label = (hidden.new_empty(targets.shape, dtype=dtype) for _ in range(3))
    return logps, hidden.new_empty(targets.shape if entropy else (0,), dtype=dtype), log_z, label


def _gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    adapter: Tensor | None,
    targets: Tensor,
    temperature: float,
    temperatures: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    budget: int,
    scores: list[Tensor],
    by_logps: Tensor,
    by_entropies: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    """Return the gradients that are needed of hidden, weight, bias and adapter, in this order.

    ``scores`` are logps, entropies, log Z and label as the forward pass returned them.
    """
    options = _options(temperature, temperatures, softcap, logit_scale)
    head = Head(hidden, weight, bias, adapter, targets.long(), options, budget)
    live = by_logps != 0 if by_entropies is None else (by_logps != 0) | (by_entropies != 0)
    rows = ((targets >= 0) & live).nonzero()[:, 0]
    logps, entropies, log_z, label = scores
    found = RowScores(logps, log_z, label, entropies if len(entropies) else None)
    upstream = Upstream(
        by_logps.to(head.dtype), None if by_entropies is None else by_entropies.to(head.dtype)
    )
    with torch.autocast(hidden.device.type, enabled=False):
        grads = differentiate(
            head,
            rows,
            found.select(rows),
            upstream.select(rows),
            (needs[0], needs[1], needs[2], needs[3]),
        )
    by_hidden = grads.hidden
    if by_hidden is not None:
        by_hidden = spread_rows(by_hidden.to(hidden.dtype), rows, len(targets))
    return [
        grad for grad in (by_hidden, grads.weight, grads.bias, grads.adapter) if grad is not None
    ]


def _fake_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    adapter: Tensor | None,
    targets: Tensor,
    temperature: float,
    temperatures: Tensor | None,
    softcap: float | None,
    logit_scale: float,
    budget: int,
    scores: list[Tensor],
    by_logps: Tensor,
    by_entropies: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    leaves = zip((hidden, weight, bias, adapter), needs, strict=True)
    return [leaf.new_empty(leaf.shape) for leaf, needed in leaves if needed and leaf is not None]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, temperature, temperatures, softcap, scale, entropy, budget = inputs
    ctx.mark_non_differentiable(output[2], output[3])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, temperatures, *output)
    ctx.options = (temperature, softcap, scale, entropy, budget)


def _backward(
    ctx: Any, by_logps: Tensor | None, by_entropies: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    hidden, weight, bias, adapter, targets, temperatures, *scores = ctx.saved_tensors
    temperature, softcap, scale, entropy, budget = ctx.options
    needs = list(ctx.needs_input_grad[:4])
    if (by_logps is None and by_entropies is None) or not any(needs):
        return (None,) * 11
    if by_logps is None:
        by_logps = torch.zeros_like(scores[0])
    found = torch.ops.grpoenv.linear_logprob_backward(
        hidden,
        weight,
        bias,
        adapter,
        targets,
        temperature,
        temperatures,
        softcap,
        scale,
        budget,
        scores,
        by_logps,
        by_entropies if entropy else None,
        needs,
    )
    left = iter(found)
    return (*(next(left) if needed else None for needed in needs), *(None,) * 7)


# Not torch.library.custom_op: the first call of such an operator imports torch._dynamo, a second or
# more that who does not compile should not pay.
_LIBRARY = torch.library.Library("grpoenv", "FRAGMENT")  # type: ignore[no-untyped-call]
_HEAD = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor? adapter, Tensor targets, "
    "float temperature, Tensor? temperatures, float? softcap, float logit_scale, "
)


def _define(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> str:
    name = schema.partition("(")[0]
    tags = (torch.Tag.pt2_compliant_tag,)
    _LIBRARY.define(schema, tags=tags)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"grpoenv::{name}", fake, lib=_LIBRARY)
    return f"grpoenv::{name}"


_define(
    f"linear_logprob_backward({_HEAD} int budget, Tensor[] scores, Tensor by_logps, "
    "Tensor? by_entropies, bool[] needs) -> Tensor[]",
    _gradients,
    _fake_gradients,
)
_OPERATOR = _define(
    f"linear_logprob({_HEAD} bool entropy, int budget) -> (Tensor, Tensor, Tensor, Tensor)",
    _scores,
    _fake_scores,
)
torch.library.register_autograd(_OPERATOR, _backward, setup_context=_remember, lib=_LIBRARY)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    low_rank: LowRank | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    entropy: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> TokenScores:
    """Score ``targets`` under ``softmax(f(logit_scale * (hidden W' + bias)) / temperature)``.

    Products are summed in float32 (float64 for float64 inputs) whatever the input dtype and
    whatever autocast says; gradients come back in the dtypes of their inputs. Differentiable once,
    by ``hidden``, ``weight`` and ``bias``.

    Deterministic: nothing is summed in an order that depends on timing, so the same inputs give the
    same bits on the same device with the same library versions, threads and budget.

    Args:
        hidden: ``[N, H]`` floating point, any strides.
        weight: ``[V, H]`` floating point. Like ``bias``, it is gathered for the call where FSDP2 or
            ZeRO-3 spreads it, see :func:`grpoenv_kernels.sharded.gather_sharded`.
        targets: ``[N]`` integers below ``V``; a row with a negative one is not scored and costs
            nothing.
        bias: ``[V]`` or ``None``.
        low_rank: logits to be added, such as an adapter's; its tensors get gradients as well.
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
    weight, of_rows = gather_sharded(weight), isinstance(temperature, Tensor)
    bias = None if bias is None else gather_sharded(bias)
    logps, entropies, _, _ = torch.ops.grpoenv.linear_logprob(
        hidden if low_rank is None else widen(hidden, weight, low_rank),
        weight,
        bias,
        None if low_rank is None else low_rank.up,
        targets,
        1.0 if of_rows else temperature,
        temperature if of_rows else None,
        softcap,
        logit_scale,
        entropy,
        budget_bytes,
    )
    return TokenScores(logps, entropies if entropy else None)
