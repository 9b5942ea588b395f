"""One micro-batch of completions, cleaned once so that masked columns cannot matter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "make_batch"]


class Batch(NamedTuple):
    """Completions of one micro-batch; every tensor is ``(B, T)`` and holds 0 where masked.

    Attributes:
        ids: int64 token ids, -100 where masked.
        mask: bool, ``True`` where a token is valid: completion mask and tool mask.
        advantages: advantage of each token.
        sequence_advantages: ``(B, 1)``, as given, if all tokens of a sequence share theirs.
        old_logps: log-probabilities before this update, or ``None`` where they equal the current.
        ref_logps: log-probabilities of the reference model, or ``None``.
        sampling_logps: log-probabilities of the sampling engine, or ``None``; NaN where it gave
            none.
        sampling_ratio: ready-made sampler correction, ``(B, T)`` or ``(B, 1)``, or ``None``.

    """

    ids: Tensor
    mask: Tensor
    advantages: Tensor
    sequence_advantages: Tensor | None
    old_logps: Tensor | None = None
    ref_logps: Tensor | None = None
    sampling_logps: Tensor | None = None
    sampling_ratio: Tensor | None = None


def make_batch(
    ids: Tensor,
    mask: Tensor,
    advantages: Tensor,
    dtype: torch.dtype,
    *,
    old_logps: Tensor | None = None,
    ref_logps: Tensor | None = None,
    tool_mask: Tensor | None = None,
    sampling_logps: Tensor | None = None,
    sampling_ratio: Tensor | None = None,
) -> Batch:
    """Check the shapes, cast to ``dtype`` and select the valid columns.

    Whatever stands in a masked column (-200, infinity, NaN, an id outside of the vocabulary) is
    replaced, not multiplied, so it reaches neither values nor gradients. No gradient flows into any
    of these tensors.

    Args:
        ids: ``(B, T)`` integers.
        mask: ``(B, T)`` completion mask, nonzero where valid.
        advantages: ``(B,)`` or ``(B, T)``.
        dtype: float32 or float64, what the loss is computed in.
        old_logps: ``(B, T)`` or ``None``.
        ref_logps: ``(B, T)`` or ``None``.
        tool_mask: ``(B, T)``, zero where a token came from a tool, or ``None``.
        sampling_logps: ``(B, T)`` or ``None``.
        sampling_ratio: ``(B, T)`` or ``(B, 1)`` or ``None``.

    Raises:
        ValueError: a shape that does not fit, or a negative id at a valid token.

    """
    if ids.dim() != 2:
        raise ValueError(f"ids must be (B, T), got {tuple(ids.shape)}")
    valid = _like(ids, mask, "mask") != 0
    if tool_mask is not None:
        valid = valid & (_like(ids, tool_mask, "tool_mask") != 0)
    if bool((valid & (ids < 0)).any()):
        raise ValueError("ids must not be negative where the mask is set")
    column = None
    if advantages.dim() == 1:
        column = advantages.detach().to(dtype)[:, None]
        advantages = advantages[:, None].expand(-1, ids.shape[1])

    def clean(values: Tensor | None, name: str) -> Tensor | None:
        if values is None:
            return None
        return torch.where(valid, _like(ids, values, name).detach().to(dtype), 0.0)

    cleaned = clean(advantages, "advantages")
    assert cleaned is not None
    return Batch(
        ids=torch.where(valid, ids.long(), -100),
        mask=valid,
        advantages=cleaned,
        sequence_advantages=column,
        old_logps=clean(old_logps, "old_logps"),
        ref_logps=clean(ref_logps, "ref_logps"),
        sampling_logps=clean(sampling_logps, "sampling_logps"),
        sampling_ratio=_ratio(sampling_ratio, valid, dtype),
    )


def _like(ids: Tensor, values: Tensor, name: str) -> Tensor:
    if values.shape != ids.shape:
        raise ValueError(f"{name} must be {tuple(ids.shape)}, got {tuple(values.shape)}")
    return values


def _ratio(ratio: Tensor | None, valid: Tensor, dtype: torch.dtype) -> Tensor | None:
    if ratio is None:
        return None
    if ratio.shape not in (valid.shape, (valid.shape[0], 1)):
        raise ValueError(f"sampling_ratio must be (B, T) or (B, 1), got {tuple(ratio.shape)}")
    ratio = ratio.detach().to(dtype)
    return torch.where(valid, ratio, 1.0) if ratio.shape == valid.shape else ratio
