"""The slow loss: full logits and plain autograd, the oracle that the fast one is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from grpoenv_runtime.batch import Batch
from grpoenv_runtime.config import LossConfig
from grpoenv_runtime.evaluation import evaluate
from grpoenv_runtime.metrics import collect_metrics
from grpoenv_runtime.policy import LossOutput, Policy

__all__ = ["grpo_compute_loss_slow", "plain_scores"]


def plain_scores(policy: Policy, batch: Batch, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies, each ``(B, T)``, from ``[tokens, V]`` logits.

    Only valid tokens are scored; the others get 0. Computed in float32, or float64 for float64
    inputs, also under autocast.
    """
    mask, head, dtype = batch.mask, config.head, policy.dtype
    with torch.autocast(policy.hidden.device.type, enabled=False):
        logits = policy.hidden[mask].to(dtype) @ policy.weight.to(dtype).t()
        if policy.bias is not None:
            logits = logits + policy.bias.to(dtype)
        logits = logits * head.logit_scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        temperature = head.temperature
        if isinstance(temperature, Tensor):
            temperature = temperature[mask].to(dtype)[:, None]
        log_p = torch.log_softmax(logits / temperature, -1)
    chosen = log_p.gather(1, batch.ids[mask][:, None])[:, 0]
    finite = log_p.masked_fill(log_p == -torch.inf, 0.0)
    entropies = -(log_p.exp() * finite).sum(1)
    zeros = log_p.new_zeros(mask.shape)
    return zeros.masked_scatter(mask, chosen), zeros.masked_scatter(mask, entropies)


def grpo_compute_loss_slow(
    policy: Policy, batch: Batch, config: LossConfig, *, return_metrics: bool = False
) -> LossOutput:
    """Compute a GRPO loss the plain way.

    Args:
        policy: hidden states and head.
        batch: the cleaned micro-batch, see :func:`grpoenv_runtime.make_batch`.
        config: the variant and its options, see :func:`grpoenv_runtime.loss_config`.
        return_metrics: fill in ``metrics``.

    Raises:
        ValueError: shapes that do not fit, or a tensor that the options need is missing.

    """
    policy.check(batch)
    evaluation = evaluate(*plain_scores(policy, batch, config), batch, config)
    metrics = collect_metrics(evaluation, batch, config) if return_metrics else {}
    return LossOutput(evaluation.loss, metrics, evaluation.logps.detach())
