"""What `heal` puts under a key that the installed zoo lacks, for each meaning that it can give.

unsloth copies the source of what it reads into a module that it generates, where `torch`, `typing`
and `os` are known and nothing of ours. So a stand-in is complete in itself and reaches this package
by an import within its body.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import torch

from grpoenv_runtime import registry_tensors
from grpoenv_runtime.batch import make_batch
from grpoenv_runtime.config import loss_config
from grpoenv_runtime.evaluation import evaluate

__all__ = ["loss_of_logits", "stand_in"]

# Same name, same parameters and same meaning in every release that has the key.
_SAME_EVERYWHERE: Final = frozenset(
    {
        "align_logprobs_with_mask",
        "calculate_pad_tokens_in_prompt",
        "create_completion_attention_mask",
        "grpo_update_SamplingParams",
        "left_pack_padding",
        "sanitize_logprob",
    }
)


def stand_in(key: str, era: str) -> Callable[..., Any] | str | None:
    """Return what can stand under `key` for an unsloth that expects the meaning of `era`.

    `era` is the first zoo release of that meaning, see `contracts`. A function, a function's source
    text where the zoo stores that, or None where no stand-in keeps the meaning.
    """
    if key in _SAME_EVERYWHERE:
        function: Callable[..., Any] = getattr(registry_tensors, key)
        return function
    if key == "grpo_compute_loss_slow" and era == "2025.3.11":
        return inspect.getsource(grpo_compute_loss_slow)
    return None


def grpo_compute_loss_slow(  # type: ignore[no-untyped-def]
    old_logits, new_logits, input_ids, mask, beta, advantages
):
    from grpoenv_runtime.heal_stand_ins import loss_of_logits

    return loss_of_logits(old_logits, new_logits, input_ids, mask, beta, advantages)


def loss_of_logits(
    old_logits: torch.Tensor,
    new_logits: torch.Tensor,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    advantages: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the loss as unsloth_zoo 2025.3.11 and 2025.3.12 mean it, in their form.

    The ratio is 1, the KL estimate is k3 against the reference, and all tokens of the batch weigh
    alike. A row without tokens counts 0 in the mean KL, where the zoo gets NaN.

    Args:
        old_logits: `(B, T, V)` of the reference model, in spite of the name.
        new_logits: `(B, T, V)` of the policy, with gradient.
        input_ids: `(B, T)` integers.
        mask: `(B, T)`, nonzero where a token counts.
        beta: coefficient of the KL term.
        advantages: `(B,)`.

    Returns:
        The loss, the mean number of tokens of a row, and the mean over rows of the KL estimate of
        a token; scalars, float32, the last two without gradient.

    """
    logps = registry_tensors.selective_log_softmax(new_logits, input_ids)
    reference = registry_tensors.selective_log_softmax(old_logits.detach(), input_ids)
    batch = make_batch(input_ids, mask, advantages, logps.dtype, ref_logps=reference)
    config = loss_config(loss_type="bnpo", beta=beta, use_bias_correction_kl=False)
    loss = evaluate(torch.where(batch.mask, logps, 0.0), None, batch, config).loss
    with torch.no_grad():
        lengths = batch.mask.sum(1)
        gap = torch.where(batch.mask, reference - logps, 0.0)
        row_kl = (gap.expm1() - gap).sum(1) / lengths.clamp(min=1)
    return loss, lengths.float().mean(), row_kl.mean()
