"""The policy term of each GRPO variant, as one small frozen class each.

Notation: ``rho`` importance ratio, ``A`` advantage, ``l`` log-probability under the policy in
training. All formulas are elementwise and broadcast, so the same code serves a batch ``(B, T)`` and
a flat block of rows ``(R,)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = [
    "ClippedRatio",
    "GammaWeight",
    "SoftGate",
    "Surrogate",
    "Terms",
    "TruncatedRatio",
    "sequence_log_weight",
]

_SMALLEST_LOG_WEIGHT = math.log(1e-8)
_LARGEST_LOG_WEIGHT = 20.0


class Terms(NamedTuple):
    """What a policy term is made of; shapes ``(B, T)``, ``(B, 1)`` or ``(R,)``, broadcastable.

    Attributes:
        logps: ``l``, with gradient.
        ratio: ``rho``, with gradient; one value a sequence at sequence level.
        advantages: ``A``.
        log_weight: log of the whole sequence's weight against the sampler; only vespo reads it.

    """

    logps: Tensor
    ratio: Tensor
    advantages: Tensor
    log_weight: Tensor


class Surrogate(Protocol):
    """A policy term."""

    def loss(self, terms: Terms) -> Tensor:
        """Return the term of each token, to be minimised."""

    def indicators(self, terms: Terms) -> Mapping[str, Tensor]:
        """Return what the variant's metrics average, by a short name."""


class ClippedRatio(NamedTuple):
    """Clipped surrogate of PPO and GRPO (arXiv 2402.03300, equation 3), with a two-sided cap.

    Attributes:
        epsilon_low: the ratio is clipped below at ``1 - epsilon_low``.
        epsilon_high: and above at ``1 + epsilon_high`` (clip-higher, arXiv 2503.14476).
        delta: cap of the ratio in the unclipped branch, on both signs of the advantage
            (INTELLECT-2, arXiv 2505.07291), or ``None``.

    """

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None

    def _capped(self, ratio: Tensor) -> Tensor:
        return ratio if self.delta is None else ratio.clamp(max=self.delta)

    def loss(self, terms: Terms) -> Tensor:
        """Return ``-min(min(rho, delta) A, clip(rho, 1 - eps_low, 1 + eps_high) A)``."""
        clipped = terms.ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        free = self._capped(terms.ratio) * terms.advantages
        return -torch.minimum(free, clipped * terms.advantages)

    def indicators(self, terms: Terms) -> Mapping[str, Tensor]:
        """Return ``low`` and ``high``: the clip takes the gradient away on that side."""
        ratio = self._capped(terms.ratio)
        low = (ratio < 1 - self.epsilon_low) & (terms.advantages < 0)
        high = (ratio > 1 + self.epsilon_high) & (terms.advantages > 0)
        return {"low": low, "high": high}


class TruncatedRatio(NamedTuple):
    """CISPO (MiniMax-M1, arXiv 2506.13585): the ratio is a truncated constant weight.

    Attributes:
        epsilon_high: the bound of the ratio itself (not one plus it).

    """

    epsilon_high: float = 0.2

    def loss(self, terms: Terms) -> Tensor:
        """Return ``-stopgrad(min(rho, eps_high)) A l``."""
        weight = terms.ratio.detach().clamp(max=self.epsilon_high)
        return -weight * terms.advantages * terms.logps

    def indicators(self, terms: Terms) -> Mapping[str, Tensor]:
        """Return ``truncated``: the bound applies and the advantage is positive."""
        return {"truncated": (terms.ratio > self.epsilon_high) & (terms.advantages > 0)}


@dataclass(frozen=True)
class SoftGate:
    """SAPO (arXiv 2511.20347): a sigmoid gate in place of the clip.

    Attributes:
        sapo_temperature_pos: temperature where the advantage is positive.
        sapo_temperature_neg: temperature elsewhere.

    """

    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05

    def __post_init__(self) -> None:
        for name in ("sapo_temperature_pos", "sapo_temperature_neg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def loss(self, terms: Terms) -> Tensor:
        """Return ``-A (4 / tau) sigmoid(tau (rho - 1))``."""
        tau = torch.full_like(terms.advantages, self.sapo_temperature_neg)
        tau = tau.masked_fill(terms.advantages > 0, self.sapo_temperature_pos)
        return -terms.advantages * torch.sigmoid(tau * (terms.ratio - 1)) * 4 / tau

    def indicators(self, terms: Terms) -> Mapping[str, Tensor]:
        """Return nothing: nothing is clipped."""
        return {}


class GammaWeight(NamedTuple):
    """VESPO (arXiv 2602.10693): a gamma-shaped weight of the whole sequence's importance weight.

    Attributes:
        vespo_k_pos: ``k`` where the advantage is not negative.
        vespo_lambda_pos: ``lambda`` there.
        vespo_k_neg: ``k`` elsewhere.
        vespo_lambda_neg: ``lambda`` elsewhere.

    """

    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0

    def _phi(self, terms: Terms) -> Tensor:
        positive = terms.advantages >= 0
        power = torch.full_like(terms.advantages, self.vespo_k_neg)
        power = power.masked_fill(positive, self.vespo_k_pos)
        rate = torch.full_like(terms.advantages, max(self.vespo_lambda_neg, 1e-4))
        rate = rate.masked_fill(positive, max(self.vespo_lambda_pos, 1e-4))
        log_weight = terms.log_weight.detach().clamp(_SMALLEST_LOG_WEIGHT, _LARGEST_LOG_WEIGHT)
        log_phi = rate + power * log_weight - rate * log_weight.exp()
        return log_phi.exp().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def loss(self, terms: Terms) -> Tensor:
        """Return ``-stopgrad(phi(w)) A l`` with ``phi(w) = e^lambda w^k e^(-lambda w)``."""
        return -self._phi(terms) * terms.advantages * terms.logps

    def indicators(self, terms: Terms) -> Mapping[str, Tensor]:
        """Return ``phi``: the weight itself."""
        return {"phi": self._phi(terms)}


def sequence_log_weight(log_ratio: Tensor, sampler_ratio: Tensor | None) -> Tensor:
    """Return vespo's log weight of each sequence, ``(B, 1)``, without gradient.

    The log ratios are summed, not averaged: ``sum_t clamp(d_t, +-20) + sum clamp(log r)``.

    Args:
        log_ratio: ``(B, T)``, 0 where masked.
        sampler_ratio: ``(B, T)``, 1 where masked, or ``(B, 1)``, or ``None``.

    """
    bound = _LARGEST_LOG_WEIGHT
    total = log_ratio.detach().clamp(-bound, bound).sum(1, keepdim=True)
    if sampler_ratio is None:
        return total
    return total + sampler_ratio.log().clamp(_SMALLEST_LOG_WEIGHT, bound).sum(1, keepdim=True)
