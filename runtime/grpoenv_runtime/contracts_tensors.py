"""Contracts of the small tensor and option helpers, see `contracts`.

Shapes: B sequences, P prompt tokens, T completion tokens, L = P + T.
"""

from __future__ import annotations

from typing import Final

from grpoenv_runtime.contracts import Contract, Era, Kind, Provided, Reading, Withheld

__all__ = ["TENSOR_CONTRACTS"]

_REPLACEMENTS: Final = "unsloth/models/rl_replacements.py"
_RL: Final = "unsloth/models/rl.py"
_HERE: Final = "grpoenv_runtime.registry_tensors"
_SFT: Final = (
    "self",
    "dataset",
    "processing_class",
    "args",
    "packing",
    "formatting_func",
    "dataset_name",
)

TENSOR_CONTRACTS: Final = (
    Contract(
        "left_pack_padding",
        Kind.FUNCTION,
        (Era("2025.9.7", ("tensor", "pad_id"), "(B, L), padding moved to the right"),),
        Reading(_RL, "2025.9.6"),
        Provided(
            _HERE,
            "left_pack_padding",
            "(tensor, pad_id)",
            "tensor (B, L) integer; returns the same shape and dtype",
        ),
    ),
    Contract(
        "calculate_pad_tokens_in_prompt",
        Kind.FUNCTION,
        (
            Era(
                "2025.9.7",
                ("input_ids", "logits_to_keep", "pad_token_id"),
                "(B,) int64, padding tokens among the first L - logits_to_keep",
            ),
        ),
        Reading(_RL, "2025.9.6"),
        Provided(
            _HERE,
            "calculate_pad_tokens_in_prompt",
            "(input_ids, logits_to_keep, pad_token_id)",
            "input_ids (B, L) integer; returns (B,) int64",
            "logits_to_keep = 0 counts the whole row; the zoo then counts nothing",
        ),
    ),
    Contract(
        "create_completion_attention_mask",
        Kind.FUNCTION,
        (
            Era(
                "2025.9.7",
                (
                    "completion_input_ids",
                    "left_pad_tokens_per_prompt",
                    "max_left_pad",
                    "pad_token_id",
                ),
                "(B, T) bool",
            ),
        ),
        Reading(_RL, "2025.9.6"),
        Provided(
            _HERE,
            "create_completion_attention_mask",
            "(completion_input_ids, left_pad_tokens_per_prompt, max_left_pad, pad_token_id)",
            "completion_input_ids (B, T) integer, left_pad_tokens_per_prompt (B,) integer; "
            "returns (B, T) bool, True where a token counts",
        ),
    ),
    Contract(
        "align_logprobs_with_mask",
        Kind.FUNCTION,
        (
            Era(
                "2025.10.13",
                ("logprob_tensor", "attention_mask", "pad_value"),
                "(B, M), each row moved to where its mask begins",
            ),
        ),
        Reading(_RL, "2025.10.12"),
        Provided(
            _HERE,
            "align_logprobs_with_mask",
            "(logprob_tensor, attention_mask, pad_value=)",
            "logprob_tensor (B, S) any dtype, attention_mask (B, M), nonzero where valid; "
            "returns (B, M) in the dtype of logprob_tensor",
        ),
    ),
    Contract(
        "align_completion_tool_mask",
        Kind.FUNCTION,
        (Era("2026.5.5", ("tool_mask", "completion_mask"), "(B, M), the two masks joined"),),
        Reading(_RL, "2026.5.10", required=False),
        Provided(
            _HERE,
            "align_completion_tool_mask",
            "(tool_mask, completion_mask)",
            "tool_mask (B, S) or None, completion_mask (B, M); returns (B, M) in the dtype of "
            "completion_mask",
        ),
    ),
    Contract(
        "grpo_autotune_batch_and_chunks",
        Kind.FUNCTION,
        (
            Era(
                "2026.1.3",
                (
                    "total_input_rows",
                    "seq_len",
                    "hidden_size",
                    "vocab_size",
                    "dtype_bytes",
                    "multiplier",
                ),
                "(rows, multiplier)",
            ),
            Era(
                "2026.9.8",
                (
                    "total_input_rows",
                    "seq_len",
                    "hidden_size",
                    "vocab_size",
                    "dtype_bytes",
                    "multiplier",
                ),
                "(rows, multiplier)",
                "where nothing fits, no more rows than there are",
            ),
        ),
        Reading(_RL, "2026.1.3"),
        Withheld(
            "it predicts the memory of the zoo's own passes from free device memory; "
            "grpoenv_runtime.grpo_loss works within a fixed budget and needs no such tuning"
        ),
    ),
    Contract(
        "grpo_update_SamplingParams",
        Kind.FUNCTION,
        (
            Era(
                "2025.11.2",
                ("SamplingParams", "generation_kwargs", "vllm_sampling_params"),
                "dict of keyword arguments",
                "lists and tuples of vllm_sampling_params win",
            ),
            Era(
                "2025.11.6",
                ("SamplingParams", "generation_kwargs", "vllm_sampling_params"),
                "dict of keyword arguments",
                "names that SamplingParams does not take are dropped",
            ),
        ),
        Reading(_REPLACEMENTS, "2025.11.2", until="2026.9.1"),
        Provided(
            _HERE,
            "grpo_update_SamplingParams",
            "(SamplingParams, generation_kwargs, vllm_sampling_params=)",
            "no tensors: a class, a mapping of options and an object or None; returns a new dict",
            "returns a new dict; before 2025.11.6 the zoo changed and returned generation_kwargs, "
            "unknown names included",
        ),
    ),
    Contract(
        "sanitize_logprob",
        Kind.FUNCTION,
        (Era("2026.3.1", ("logprob",), "float, or None for NaN"),),
        Reading(_RL, "2026.3.1"),
        Provided(
            _HERE,
            "sanitize_logprob",
            "(logprob)",
            "no tensors: an object with a float attribute logprob; returns a float or None",
        ),
    ),
    Contract(
        "sft_prepare_dataset",
        Kind.FUNCTION,
        (Era("2025.3.2", _SFT, "a dataset"),),
        Reading(_REPLACEMENTS, "2025.3.4", required=False),
        Withheld(
            "it tokenises data for supervised fine-tuning, which this package has no part in; "
            "unsloth reads it with .get and goes on without it"
        ),
    ),
)
