"""Contracts of the losses and the log-probabilities, see `contracts`.

Shapes: B sequences, T completion tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Final

from grpoenv_runtime.contracts import Contract, Era, Kind, Provided, Reading, Withheld

__all__ = ["LOSS_CONTRACTS"]

_REPLACEMENTS: Final = "unsloth/models/rl_replacements.py"
_RL: Final = "unsloth/models/rl.py"

_LOGITS: Final = ("old_logits", "new_logits", "input_ids", "mask", "beta", "advantages")
_THREE_LOGITS: Final = (
    "ref_logits",
    "new_logits",
    "old_logits",
    "input_ids",
    "mask",
    "beta",
    "advantages",
    "kwargs",
)
_SAMPLED_LOGITS: Final = (*_THREE_LOGITS[:3], "sampling_per_token_logps", *_THREE_LOGITS[3:])
_LOGPS: Final = ("ref", "new", "old", *_SAMPLED_LOGITS[3:])

_PER_SEQUENCE: Final = "mean over sequences of the mean over tokens"
_PER_TOKEN: Final = "mean over all tokens of the batch"
_TRIPLE: Final = "(loss, completion_length, mean_kl)"
_WITH_RATIO: Final = "(loss, completion_length, mean_kl, delta, flat_is_ratio)"

_LOSS_ERAS: Final = (
    Era("2025.2.5", _LOGITS, _TRIPLE, f"ratio 1, k3; {_PER_SEQUENCE}; old_logits = reference"),
    Era("2025.2.7", _LOGITS, _TRIPLE, _PER_TOKEN),
    Era("2025.3.13", _LOGITS, _TRIPLE, _PER_SEQUENCE),
    Era("2025.5.9", _THREE_LOGITS, _TRIPLE, "clipped ratio; loss_type grpo, bnpo, dr_grpo"),
    Era("2025.9.7", _THREE_LOGITS, _TRIPLE, "sequence-level ratio"),
    Era("2025.10.13", _SAMPLED_LOGITS, _WITH_RATIO, "sampler correction, dapo"),
    Era("2026.1.3", _LOGPS, _WITH_RATIO, "log-probabilities (B, T) in place of logits (B, T, V)"),
    Era("2026.2.1", _LOGPS, f"{_WITH_RATIO[:-1]}, coef_1)", "cispo, sapo, off-policy mask"),
    Era("2026.3.2", _LOGPS, f"{_WITH_RATIO[:-1]}, coef_1, mask)"),
    Era("2026.5.2", _LOGPS, f"{_WITH_RATIO[:-1]}, coef_1, mask)", "vespo"),
    Era("2026.7.2", _LOGPS, f"{_WITH_RATIO[:-1]}, coef_1, mask)", "four sampler modes"),
    Era("2026.9.3", _LOGPS, f"{_WITH_RATIO[:-1]}, coef_1, mask)", "bias-corrected KL"),
)

_CHUNKED: Final = ("_input_ids", "_mask", "_advantages", "beta", "scaler", "n_chunks")
_HIDDEN_ERAS: Final = (
    Era(
        "2025.2.6",
        ("_new_hidden_states", "_old_hidden_states", "lm_head", *_CHUNKED),
        _TRIPLE,
        "averages the losses of n_chunks; drops the gradient from above",
    ),
    Era(
        "2025.5.9",
        (
            "_new_hidden_states",
            "_old_hidden_states",
            "_ref_hidden_states",
            "lm_head",
            *_CHUNKED,
            "extra_kwargs",
        ),
        _TRIPLE,
    ),
    Era(
        "2025.10.13",
        (
            "_new_hidden_states",
            "_old_hidden_states",
            "_ref_hidden_states",
            "_sampling_per_token_logps",
            "lm_head",
            *_CHUNKED,
            "extra_kwargs",
        ),
        _WITH_RATIO,
    ),
    Era(
        "2026.1.3",
        (
            "_new_logps",
            "_old_logps",
            "_ref_logps",
            "_sampling_per_token_logps",
            "lm_head",
            *_CHUNKED,
            "extra_kwargs",
        ),
        _WITH_RATIO,
    ),
    Era(
        "2026.9.8",
        (
            "_new_logps",
            "_old_logps",
            "_ref_logps",
            "_sampling_per_token_logps",
            "lm_head",
            *_CHUNKED,
            "extra_kwargs",
            "upstream_scale",
        ),
        f"{_WITH_RATIO[:-1]}, coef_1, mask)",
    ),
)

_ROWS: Final = ("input_ids", "logits_to_keep", "completion_mask", "advantages")
_MASKED_ROWS: Final = ("input_ids", "attention_mask", *_ROWS[1:])
_ACCUMULATED_ERAS: Final = (
    Era("2025.2.6", ("trainer", *_ROWS, "n_chunks"), _TRIPLE),
    Era("2025.5.9", ("trainer", *_ROWS, "old_hidden_states", "n_chunks", "kwargs"), _TRIPLE),
    Era("2025.6.5", ("trainer", *_MASKED_ROWS, "old_hidden_states", "n_chunks", "kwargs"), _TRIPLE),
    Era(
        "2025.9.7",
        (
            "trainer",
            *_MASKED_ROWS,
            "old_hidden_states",
            "ref_hidden_states",
            "n_chunks",
            "kwargs",
        ),
        _TRIPLE,
        "prompts are packed to the left and repadded",
    ),
    Era(
        "2026.1.3",
        ("trainer", *_MASKED_ROWS, "old_logps", "ref_logps", "n_chunks", "kwargs"),
        _WITH_RATIO,
        "old and reference log-probabilities in place of hidden states",
    ),
    Era(
        "2026.5.5",
        ("trainer", *_MASKED_ROWS, "old_logps", "ref_logps", "n_chunks", "tool_mask", "kwargs"),
        f"{_WITH_RATIO[:-1]}, coef_1, completion_mask)",
    ),
)

_SUPPORT: Final = ("support_top_k", "support_top_p", "support_min_p")
_TOKEN_LOGPS: Final = "(B, T) float32 log-probabilities"
_SCORER: Final = (
    "hidden_states",
    "lm_head",
    "index",
    "chunks",
    "logit_scale_multiply",
    "logit_scale_divide",
    "logit_softcapping",
    "temperature",
)
_LOSS_TENSORS: Final = (
    "policy: hidden (B, T, H), weight (V, H), bias (V,) or None, float; batch: (B, T) tensors, "
    "see Batch; returns LossOutput: scalar float32 or float64 loss, metrics, logps (B, T)"
)
_OWN_ARGUMENTS: Final = (
    "takes this package's Policy, Batch and LossConfig in place of the zoo's tensors and keywords, "
    "returns LossOutput in place of a tuple, and follows trl where the zoo clamps the KL"
)

LOSS_CONTRACTS: Final = (
    Contract(
        "grpo_compute_loss",
        Kind.FUNCTION,
        _LOSS_ERAS,
        Reading(_REPLACEMENTS, "2025.2.10"),
        Provided(
            "grpoenv_runtime.fast",
            "grpo_compute_loss",
            "(policy, batch, config, *, return_metrics=, budget_bytes=)",
            _LOSS_TENSORS,
            _OWN_ARGUMENTS,
        ),
    ),
    Contract(
        "grpo_compute_loss_slow",
        Kind.SOURCE_TEXT,
        (
            Era("2025.3.11", _LOGITS, _TRIPLE, f"the loss's source, renamed; {_PER_TOKEN}"),
            *_LOSS_ERAS[2:],
        ),
        Reading(_REPLACEMENTS, "2025.3.11"),
        Provided(
            "grpoenv_runtime.slow",
            "grpo_compute_loss_slow",
            "(policy, batch, config, *, return_metrics=)",
            _LOSS_TENSORS,
            f"a function where the zoo has its source text; {_OWN_ARGUMENTS}. unsloth 2025.10.12 "
            "to 2026.4.1 passes seven tensors by place and sampling_per_token_logps, the zoo's "
            "fourth, by name: Python refuses that call; put right by 2026.4.8",
        ),
    ),
    Contract(
        "UnslothEfficientGRPO",
        Kind.AUTOGRAD_FUNCTION,
        _HIDDEN_ERAS,
        Reading(_REPLACEMENTS, "2025.2.13"),
        Withheld(
            "its contract is to ignore the gradient from above and to average the losses of "
            "chunks, so that half a loss has a whole gradient; grpoenv_runtime.grpo_loss gives "
            "the loss and its true gradient without logits"
        ),
    ),
    Contract(
        "grpo_accumulated_loss",
        Kind.FUNCTION,
        _ACCUMULATED_ERAS,
        Reading(_REPLACEMENTS, "2025.2.13"),
        Withheld(
            "it drives a trainer whose model unsloth has changed to return hidden states in place "
            "of logits; call grpoenv_runtime.grpo_loss with the hidden states of your model"
        ),
    ),
    Contract(
        "selective_log_softmax",
        Kind.FUNCTION,
        (
            Era("2025.2.5", ("logits", "index"), _TOKEN_LOGPS),
            Era("2025.7.5", ("logits", "index"), _TOKEN_LOGPS, "in four row chunks"),
            Era("2026.3.3", ("logits", "index", "temperature"), _TOKEN_LOGPS),
            Era("2026.5.4", ("logits", "index", "temperature", "chunks"), _TOKEN_LOGPS),
            Era(
                "2026.10.7",
                ("logits", "index", "temperature", "chunks", *_SUPPORT),
                _TOKEN_LOGPS,
                "over a truncated support where one is asked for",
            ),
            Era(
                "2026.10.8",
                (
                    *("logits", "index", "temperature", "chunks"),
                    *_SUPPORT,
                    "support_triton_sampler",
                    "support_excluded_ids",
                ),
                _TOKEN_LOGPS,
            ),
        ),
        Reading(_RL, "2025.2.10"),
        Provided(
            "grpoenv_runtime.registry_tensors",
            "selective_log_softmax",
            "(logits, index, temperature=, chunks=)",
            "logits (B, T, V) float, index (B, T) integer; returns (B, T) float32",
            "no truncated support (2026.10.7 on)",
        ),
    ),
    Contract(
        "grpo_selective_log_softmax",
        Kind.FUNCTION,
        (
            Era("2026.1.3", _SCORER, _TOKEN_LOGPS),
            Era("2026.8.8", (*_SCORER, "max_rows_per_chunk"), _TOKEN_LOGPS),
            Era("2026.10.4", (*_SCORER, "max_rows_per_chunk", "lm_head_bias"), _TOKEN_LOGPS),
            Era(
                "2026.10.7",
                (*_SCORER, "max_rows_per_chunk", "lm_head_bias", *_SUPPORT, "fp32_lm_head"),
                _TOKEN_LOGPS,
                "over a truncated support where one is asked for",
            ),
            Era(
                "2026.10.8",
                (
                    *_SCORER,
                    "max_rows_per_chunk",
                    "lm_head_bias",
                    *_SUPPORT,
                    "support_triton_sampler",
                    "support_excluded_ids",
                    "fp32_lm_head",
                ),
                _TOKEN_LOGPS,
            ),
            Era(
                "2026.10.9",
                (
                    *_SCORER,
                    "max_rows_per_chunk",
                    "lm_head_bias",
                    *_SUPPORT,
                    "support_triton_sampler",
                    "support_excluded_ids",
                    "fp32_lm_head",
                    "fused_linear",
                ),
                _TOKEN_LOGPS,
            ),
        ),
        Reading(_RL, "2026.1.3"),
        Provided(
            "grpoenv_runtime.registry_tensors",
            "grpo_selective_log_softmax",
            "(hidden_states, lm_head, index, chunks=, logit_scale_multiply=, logit_scale_divide=, "
            "logit_softcapping=, temperature=, lm_head_bias=)",
            "hidden_states (B, T, H) and lm_head (V, H) float, index (B, T) integer, "
            "lm_head_bias (V,) or None; returns (B, T) float32",
            "no truncated support and no limit on rows (it never holds [tokens, V]); chunks is "
            "accepted and has no effect",
        ),
    ),
)
