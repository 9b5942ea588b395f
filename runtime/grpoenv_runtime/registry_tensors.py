"""The registry's small functions: log-probabilities of given tokens, padding, masks, options.

unsloth does not call such functions: it copies their source into a module that it generates. So
each is complete in itself: it imports what it needs within its body, and its annotations need no
more than `torch` and `typing`.

Shapes: B sequences, L tokens, T completion tokens, M columns of a mask, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = [
    "align_completion_tool_mask",
    "align_logprobs_with_mask",
    "calculate_pad_tokens_in_prompt",
    "create_completion_attention_mask",
    "grpo_selective_log_softmax",
    "grpo_update_SamplingParams",
    "left_pack_padding",
    "sanitize_logprob",
    "selective_log_softmax",
]


def selective_log_softmax(
    logits: torch.Tensor, index: torch.Tensor, temperature: float = 1.0, chunks: int = 4
) -> torch.Tensor:
    """Return the log-probabilities `(B, T)`, float32, of the tokens `index` under `logits`.

    Args:
        logits: `(B, T, V)`, float.
        index: `(B, T)` integers below V.
        temperature: divides the logits.
        chunks: how many parts the rows are worked in; more of them need less memory.

    """
    rows = logits.reshape(-1, logits.shape[-1]).chunk(max(chunks, 1))
    tokens = index.reshape(-1).long().chunk(max(chunks, 1))
    found = [
        (part.float() / temperature).log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        for part, chosen in zip(rows, tokens, strict=True)
    ]
    return torch.cat(found).view(index.shape)


def grpo_selective_log_softmax(
    hidden_states: torch.Tensor,
    lm_head: torch.Tensor,
    index: torch.Tensor,
    chunks: int = 4,
    logit_scale_multiply: float = 0.0,
    logit_scale_divide: float = 0.0,
    logit_softcapping: float = 0.0,
    temperature: float = 1.0,
    lm_head_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the log-probabilities `(B, T)`, float32, of tokens under a head, without logits.

    Args:
        hidden_states: `(B, T, H)`, float.
        lm_head: `(V, H)`, float.
        index: `(B, T)` integers below V; a negative one scores 0.
        chunks: has no effect: the working memory is bounded anyway.
        logit_scale_multiply: factor on the logits; 0 for none.
        logit_scale_divide: divisor of the logits; 0 for none.
        logit_softcapping: logits become `cap * tanh(logit / cap)`; 0 for none.
        temperature: divides the logits last.
        lm_head_bias: `(V,)` or None.

    """
    from grpoenv_kernels import linear_logprob

    scale = (logit_scale_multiply or 1.0) / (logit_scale_divide or 1.0)
    scores = linear_logprob(
        hidden_states.reshape(-1, hidden_states.shape[-1]),
        lm_head,
        index.reshape(-1),
        bias=lm_head_bias,
        temperature=temperature,
        softcap=logit_softcapping or None,
        logit_scale=scale,
    )
    return scores.logps.view(index.shape)


def left_pack_padding(tensor: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Return `tensor` `(B, L)` with the padding of each row moved behind its other tokens."""
    is_padding = (tensor == pad_id).to(torch.int8)
    return tensor.gather(1, is_padding.argsort(dim=1, stable=True))


def calculate_pad_tokens_in_prompt(
    input_ids: torch.Tensor, logits_to_keep: int, pad_token_id: int
) -> torch.Tensor:
    """Count the padding among the first `L - logits_to_keep` tokens of each row.

    Args:
        input_ids: `(B, L)` integers.
        logits_to_keep: length of the completion, from 0 to L - 1.
        pad_token_id: the padding token.

    Returns:
        `(B,)` int64.

    Raises:
        ValueError: no prompt is left.

    """
    prompt_length = input_ids.shape[1] - logits_to_keep
    if prompt_length <= 0:
        raise ValueError(
            f"logits_to_keep must be below the length {input_ids.shape[1]}, got {logits_to_keep}"
        )
    return (input_ids[:, :prompt_length] == pad_token_id).sum(1)


def create_completion_attention_mask(
    completion_input_ids: torch.Tensor,
    left_pad_tokens_per_prompt: torch.Tensor,
    max_left_pad: int,
    pad_token_id: int,
) -> torch.Tensor:
    """Return `(B, T)` bool, True for the completion's tokens in rows that were packed to the left.

    A row whose prompt had less padding than the most padded one starts with the end of its prompt.

    Args:
        completion_input_ids: `(B, T)` integers.
        left_pad_tokens_per_prompt: `(B,)` integers, padding in front of each prompt.
        max_left_pad: the largest of them.
        pad_token_id: the padding token.

    """
    columns = torch.arange(completion_input_ids.shape[1], device=completion_input_ids.device)
    first = max_left_pad - left_pad_tokens_per_prompt
    return (columns >= first[:, None]) & (completion_input_ids != pad_token_id)


def align_logprobs_with_mask(
    logprob_tensor: torch.Tensor, attention_mask: torch.Tensor, pad_value: float = 0.0
) -> torch.Tensor:
    """Return `(B, M)` with the values of each row starting where its mask starts.

    What does not fit is cut off, what is left over is `pad_value`; a row without a mask starts at
    its first column.

    Args:
        logprob_tensor: `(B, S)`, values packed to the left.
        attention_mask: `(B, M)`, nonzero where valid.
        pad_value: fills the other columns.

    """
    length = logprob_tensor.shape[1]
    columns = torch.arange(attention_mask.shape[1], device=logprob_tensor.device)
    first = (attention_mask != 0).int().argmax(1, keepdim=True)
    source = columns - first
    fits = (source >= 0) & (source < length)
    if length == 0:
        return torch.full_like(source, pad_value, dtype=logprob_tensor.dtype)
    return logprob_tensor.gather(1, source.clamp(0, length - 1)).masked_fill(~fits, pad_value)


def align_completion_tool_mask(
    tool_mask: torch.Tensor | None, completion_mask: torch.Tensor
) -> torch.Tensor:
    """Return `completion_mask` `(B, M)` without the tokens that came from a tool.

    Args:
        tool_mask: `(B, S)`, zero where a token came from a tool, packed to the left unless S = M;
            None where there was no tool.
        completion_mask: `(B, M)`, nonzero where valid.

    Raises:
        ValueError: another number of rows.

    """
    from grpoenv_runtime.registry_tensors import align_logprobs_with_mask

    if tool_mask is None:
        return completion_mask
    if len(tool_mask) != len(completion_mask):
        raise ValueError(
            f"tool_mask has {len(tool_mask)} rows, completion_mask {len(completion_mask)}"
        )
    tool_mask = tool_mask.to(completion_mask.device)
    if tool_mask.shape != completion_mask.shape:
        tool_mask = align_logprobs_with_mask(tool_mask, completion_mask, 0)
    return completion_mask * tool_mask.to(completion_mask.dtype)


def grpo_update_SamplingParams(
    SamplingParams: type[Any],
    generation_kwargs: Mapping[str, Any],
    vllm_sampling_params: object = None,
) -> dict[str, Any]:
    """Return the options for `SamplingParams`: those that it takes, and the user's lists on top.

    Args:
        SamplingParams: the sampling engine's class.
        generation_kwargs: the trainer's options; names that the class does not take are dropped.
        vllm_sampling_params: the user's own instance, or None; its lists and tuples that are not
            empty replace the trainer's.

    """
    import inspect

    known = inspect.signature(SamplingParams).parameters.keys()
    options = {name: value for name, value in generation_kwargs.items() if name in known}
    for name in known:
        value = getattr(vllm_sampling_params, name, None)
        if type(value) in (list, tuple) and value:
            options[name] = value
    return options


def sanitize_logprob(logprob: Any) -> float | None:
    """Return `logprob.logprob`, or None, with a logged warning, where it is NaN."""
    import logging
    import math

    value: float = logprob.logprob
    if math.isnan(value):
        logging.getLogger("grpoenv").warning("a sampled token has a NaN log-probability; ignored")
        return None
    return value
