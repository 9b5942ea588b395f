"""The options of a GRPO loss: flat names at the edge, small frozen classes inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grpoenv_kernels.head import HeadOptions
from grpoenv_runtime.normalisers import (
    Normalisation,
    Normaliser,
    per_batch_token,
    per_generated_token,
    per_padded_token,
    per_sequence,
    per_sequence_token,
)
from grpoenv_runtime.sampler import SamplerCorrection
from grpoenv_runtime.surrogates import (
    ClippedRatio,
    GammaWeight,
    SoftGate,
    Surrogate,
    TruncatedRatio,
)

__all__ = ["LOSS_TYPES", "LossConfig", "LossType", "loss_config"]

LEVELS = ("token", "sequence")


class LossType(NamedTuple):
    """One variant: its policy term and how its tokens are weighed."""

    surrogate: type[Any]
    normaliser: Normaliser


LOSS_TYPES: Mapping[str, LossType] = {
    "grpo": LossType(ClippedRatio, per_sequence_token),
    "bnpo": LossType(ClippedRatio, per_batch_token),
    "dr_grpo": LossType(ClippedRatio, per_padded_token),
    "dapo": LossType(ClippedRatio, per_generated_token),
    "luspo": LossType(ClippedRatio, per_sequence),
    "cispo": LossType(TruncatedRatio, per_generated_token),
    "sapo": LossType(SoftGate, per_sequence_token),
    "vespo": LossType(GammaWeight, per_generated_token),
}


@dataclass(frozen=True, eq=False)
class LossConfig:
    """Everything about a loss but its tensors.

    Attributes:
        surrogate: the variant's policy term with its own options.
        normaliser: the variant's token weights.
        sequence_level: one importance ratio for each sequence (GSPO, arXiv 2507.18071) instead of
            one for each token.
        beta: coefficient of the KL term.
        use_bias_correction_kl: weigh the KL term with the importance ratio (DeepSeek-V3.2,
            arXiv 2512.02556).
        top_entropy_quantile: share of tokens, those of highest entropy, that the policy term acts
            on (arXiv 2506.01939); 1 for all.
        entropy_coef: coefficient of the entropy bonus.
        off_policy_mask_threshold: sequences of negative advantage are dropped where the sampler's
            mean log ratio exceeds this (arXiv 2512.02556, equation 9); ``None`` for never.
        sampler: correction for the sampling engine, or ``None``.
        head: temperature, softcap and scale of the logits; a temperature tensor is ``(B, T)``.
        normalisation: where the micro-batch stands in training.

    """

    surrogate: Surrogate
    normaliser: Normaliser
    sequence_level: bool = False
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    top_entropy_quantile: float = 1.0
    entropy_coef: float = 0.0
    off_policy_mask_threshold: float | None = None
    sampler: SamplerCorrection | None = None
    head: HeadOptions = field(default_factory=HeadOptions)
    normalisation: Normalisation = field(default_factory=Normalisation)

    def __post_init__(self) -> None:
        if not 0 <= self.top_entropy_quantile <= 1:
            raise ValueError(f"top_entropy_quantile must be in [0, 1], {self.top_entropy_quantile}")

    @property
    def needs_entropy(self) -> bool:
        """Whether the loss itself, not only its metrics, reads the entropies."""
        return self.top_entropy_quantile < 1 or self.entropy_coef != 0


_PLAIN = (
    "beta",
    "use_bias_correction_kl",
    "top_entropy_quantile",
    "entropy_coef",
    "off_policy_mask_threshold",
)
_SAMPLER = {
    "vllm_importance_sampling_mode": "mode",
    "vllm_importance_sampling_clip_min": "clip_min",
    "vllm_importance_sampling_clip_max": "clip_max",
}


def _names(*kinds: type[Any]) -> frozenset[str]:
    return frozenset(name for kind in kinds for name in kind.__annotations__)


_SURROGATE = _names(ClippedRatio, TruncatedRatio, SoftGate, GammaWeight)
_KNOWN = (
    frozenset(_PLAIN)
    | frozenset(_SAMPLER)
    | _SURROGATE
    | _names(HeadOptions, Normalisation)
    | {"loss_type", "importance_sampling_level"}
)


def _pick(kind: Callable[..., Any], names: frozenset[str], options: Mapping[str, Any]) -> Any:
    return kind(**{name: options[name] for name in names & options.keys()})


def loss_config(**options: Any) -> LossConfig:
    """Build a :class:`LossConfig` from trl's option names.

    ``loss_type`` ("dapo") and ``importance_sampling_level`` ("token") choose the variant; the other
    names are the fields of the variant's own class, of :class:`Normalisation`, of
    :class:`grpoenv_kernels.head.HeadOptions` and of :class:`LossConfig`, and for the sampler
    ``vllm_importance_sampling_mode``, ``_clip_min`` and ``_clip_max``: a correction is made where a
    mode is named. Options of other variants are accepted and have no effect.

    Raises:
        TypeError: an unknown name.
        ValueError: an unknown loss type or level, or a value out of range.

    """
    unknown = sorted(options.keys() - _KNOWN)
    if unknown:
        raise TypeError(f"unknown options {unknown}; known are {sorted(_KNOWN)}")
    name, level = (
        options.get("loss_type", "dapo"),
        options.get("importance_sampling_level", "token"),
    )
    if name not in LOSS_TYPES:
        raise ValueError(f"loss_type must be one of {sorted(LOSS_TYPES)}, got {name!r}")
    if level not in LEVELS:
        raise ValueError(f"importance_sampling_level must be one of {LEVELS}, got {level!r}")
    kind = LOSS_TYPES[name]
    sampler = {ours: options[theirs] for theirs, ours in _SAMPLER.items() if theirs in options}
    return LossConfig(
        surrogate=_pick(kind.surrogate, _names(kind.surrogate), options),
        normaliser=kind.normaliser,
        sequence_level=level == "sequence",
        sampler=SamplerCorrection(**sampler) if sampler.get("mode") is not None else None,
        head=_pick(HeadOptions, _names(HeadOptions), options),
        normalisation=_pick(Normalisation, _names(Normalisation), options),
        **{entry: options[entry] for entry in _PLAIN if entry in options},
    )
