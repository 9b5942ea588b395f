"""Keys that the zoo defines and that no release of unsloth has read from the registry.

The zoo's own module uses them, or unsloth imports the function by its name instead. They are listed
so that whoever asks for one learns why it is absent.
"""

from __future__ import annotations

from typing import Final

__all__ = ["UNREAD_KEYS"]

_VISION: Final = "it rearranges the inputs of the zoo's multimodal passes"
_ROLLOUT: Final = (
    "it serves the zoo's rollout corrections; sampling_logps and the sampler options of "
    "grpoenv_runtime.loss_config do the same within the loss"
)
_ENTROPY: Final = "entropy_coef of grpoenv_runtime.loss_config does it within the loss"
_RECOMPUTE: Final = (
    "it is grpo_selective_log_softmax with another trade of memory for time; "
    "grpoenv_kernels.linear_logprob recomputes by itself"
)
_WARNING: Final = "it warns about options of unsloth's own trainer"

# Key: (first release of unsloth_zoo that defines it, why it is absent here).
UNREAD_KEYS: Final = {
    "UnslothGRPOEntropyBonus": (
        "2026.10.7",
        f"it adds the entropy bonus to a gradient by hand; {_ENTROPY}",
    ),
    "_warn_deprecated_n_chunks": ("2026.9.3", _WARNING),
    "_warn_unsupported_grpo_options": ("2026.9.3", _WARNING),
    "distillation_chunked_jsd": ("2026.9.7", "it is a distillation loss, not a GRPO loss"),
    "grpo_companion_drops_pixels": ("2026.9.5", _VISION),
    "grpo_companion_vision_keys": ("2026.9.5", _VISION),
    "grpo_entropy_bonus_weights": (
        "2026.10.7",
        f"it gives the token weights of the zoo's entropy bonus; {_ENTROPY}",
    ),
    "grpo_get_vision_inputs": ("2026.9.5", _VISION),
    "grpo_parse_rollout_rs": ("2026.10.7", _ROLLOUT),
    "grpo_rollout_as_old_ratio_metrics": ("2026.10.8", _ROLLOUT),
    "grpo_rollout_logps_as_old": ("2026.10.8", _ROLLOUT),
    "grpo_rollout_mismatch_metrics": ("2026.10.7", _ROLLOUT),
    "grpo_rollout_mismatch_stats": ("2026.10.7", _ROLLOUT),
    "grpo_rollout_old_fill_unscored": ("2026.10.8", _ROLLOUT),
    "grpo_rollout_rs_keep": ("2026.10.8", _ROLLOUT),
    "grpo_selective_log_softmax_recompute": (
        "2026.10.7",
        _RECOMPUTE,
    ),
    "grpo_shared_vision_inputs": ("2026.9.5", _VISION),
    "grpo_truncated_support_kwargs": (
        "2026.10.7",
        "it asks for log-probabilities over a truncated support, which this package does not have",
    ),
    "grpo_vision_chunks": ("2026.9.5", _VISION),
}
