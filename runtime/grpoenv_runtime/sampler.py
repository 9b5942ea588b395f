"""Correction for the gap between the engine that sampled a completion and the policy in training.

The modes and bounds are those of trl 1.16's options ``vllm_importance_sampling_mode``, ``_clip_min``
and ``_clip_max``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CORRECTION_MODES", "SamplerCorrection"]

_Bound = Callable[[Tensor, float, float], Tensor]


def _truncate(ratio: Tensor, low: float, high: float) -> Tensor:
    return ratio.clamp(low, high)


def _drop(ratio: Tensor, low: float, high: float) -> Tensor:
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


# Mode -> (one ratio for each sequence?, what happens outside of the bounds).
CORRECTION_MODES: Mapping[str, tuple[bool, _Bound]] = {
    "token_truncate": (False, _truncate),
    "token_mask": (False, _drop),
    "sequence_truncate": (True, _truncate),
    "sequence_mask": (True, _drop),
}


@dataclass(frozen=True)
class SamplerCorrection:
    """Ratio of the old policy to the sampler, bounded.

    Attributes:
        mode: a key of :data:`CORRECTION_MODES`.
        clip_min: lower bound, ``None`` for none.
        clip_max: upper bound, ``None`` for none.

    Raises:
        ValueError: an unknown mode.

    """

    mode: str = "sequence_mask"
    clip_min: float | None = None
    clip_max: float | None = 3.0

    def __post_init__(self) -> None:
        if self.mode not in CORRECTION_MODES:
            raise ValueError(
                f"vllm_importance_sampling_mode must be one of {sorted(CORRECTION_MODES)}, "
                f"got {self.mode!r}"
            )

    @property
    def per_sequence(self) -> bool:
        """Whether a sequence has one ratio."""
        return CORRECTION_MODES[self.mode][0]

    def ratio(self, old_logps: Tensor, sampling_logps: Tensor, mask: Tensor) -> Tensor:
        """Return the ratio, ``(B, T)`` or at sequence level ``(B, 1)``, without gradient.

        A token that the sampler could not score (NaN) counts as no difference.

        Args:
            old_logps: ``(B, T)``, the policy before this update.
            sampling_logps: ``(B, T)``, the sampling engine.
            mask: ``(B, T)`` bool, ``True`` where a token is valid.

        """
        per_sequence, bound = CORRECTION_MODES[self.mode]
        gap = (old_logps - sampling_logps).detach().nan_to_num(nan=0.0)
        gap = torch.where(mask, gap, 0.0)
        if per_sequence:
            gap = gap.sum(1, keepdim=True)
        low = -math.inf if self.clip_min is None else self.clip_min
        high = math.inf if self.clip_max is None else self.clip_max
        return bound(gap.exp(), low, high)
