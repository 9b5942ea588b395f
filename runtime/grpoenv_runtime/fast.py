"""The fast loss: the same values and gradients without ``[tokens, vocabulary]`` logits.

Where the loss is a sum of one term for each token, the head is swept once and gradients come out of
the same sweep (:func:`grpoenv_kernels.linear_objective`). Where a token's coefficient depends on
other tokens' log-probabilities there are two phases, :func:`grpoenv_kernels.linear_logprob` and its
backward, for one more matrix product; :func:`two_phase_reason` says why.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from grpoenv_kernels import linear_logprob, linear_objective
from grpoenv_kernels.sweep import Objective
from grpoenv_kernels.tiles import DEFAULT_BUDGET_BYTES
from grpoenv_runtime.batch import Batch, make_batch
from grpoenv_runtime.config import LossConfig, loss_config
from grpoenv_runtime.evaluation import evaluate, kl_term, required_reference, sampler_ratio
from grpoenv_runtime.metrics import collect_metrics
from grpoenv_runtime.policy import LossOutput, Policy
from grpoenv_runtime.surrogates import GammaWeight, Terms

__all__ = ["grpo_compute_loss", "grpo_loss", "two_phase_reason"]


def two_phase_reason(batch: Batch, config: LossConfig) -> str | None:
    """Say why a token's gradient cannot be known from its own log-probability, or ``None``.

    With ``old_logps`` absent every ratio is 1, so a sequence's ratio couples its tokens only
    through what differs between them: their advantages, and the KL term that it multiplies.
    """
    on_policy = batch.old_logps is None
    coupled = config.sequence_level and (
        not on_policy
        or batch.sequence_advantages is None
        or (config.beta != 0 and config.use_bias_correction_kl)
        or batch.sampling_ratio is not None
    )
    reasons = {
        "the top-entropy mask needs every entropy": config.top_entropy_quantile < 1,
        "the entropy bonus needs the gradient of entropies": config.entropy_coef != 0,
        "the off-policy mask needs each sequence's mean": (
            config.off_policy_mask_threshold is not None
        ),
        "the sequence-level ratio couples the tokens of a sequence": coupled,
        "vespo weighs whole sequences": isinstance(config.surrogate, GammaWeight)
        and (not on_policy or batch.sampling_ratio is not None),
        "the sampler correction needs the old log-probabilities": on_policy
        and config.sampler is not None
        and batch.sampling_ratio is None,
        "the sampler's correction differs between the tokens of a sequence": config.sequence_level
        and config.sampler is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _row_objective(batch: Batch, config: LossConfig, dtype: torch.dtype) -> Objective:
    """Return the loss of single tokens, as a function of their log-probabilities and positions."""
    shape = batch.mask.shape
    weights = config.normaliser(config.normalisation, batch.mask, dtype)
    advantages, old, reference = (
        batch.advantages,
        batch.old_logps,
        required_reference(batch, config),
    )
    sampled = None if old is None else sampler_ratio(batch, old, config)
    if sampled is None:
        sampled = batch.sampling_ratio

    def rows_of(values: Tensor, rows: Tensor) -> Tensor:
        return values.expand(shape).reshape(-1)[rows]

    def objective(logps: Tensor, rows: Tensor) -> Tensor:
        before = logps.detach() if old is None else rows_of(old, rows)
        ratio = (logps - before).exp()
        terms = Terms(logps, ratio, rows_of(advantages, rows), torch.zeros_like(before))
        loss = config.surrogate.loss(terms)
        if sampled is not None:
            loss = loss * rows_of(sampled, rows)
        if reference is not None:
            kl = kl_term(logps, rows_of(reference, rows), ratio, config)
            loss = loss + config.beta * kl
        return loss * rows_of(weights, rows)

    return objective


def _targets(batch: Batch, config: LossConfig, every_token: bool) -> Tensor:
    """Return the flat labels; tokens that cannot contribute are not scored unless asked for."""
    if every_token or config.beta != 0:
        return batch.ids.reshape(-1)
    return torch.where(batch.advantages == 0, -100, batch.ids).reshape(-1)


def _head_arguments(policy: Policy, config: LossConfig, budget: int) -> dict[str, Any]:
    temperature = config.head.temperature
    if isinstance(temperature, Tensor):
        temperature = temperature.expand(policy.hidden.shape[:2]).reshape(-1)
    return {
        "bias": policy.bias,
        "temperature": temperature,
        "softcap": config.head.softcap,
        "logit_scale": config.head.logit_scale,
        "budget_bytes": budget,
    }


def grpo_compute_loss(
    policy: Policy,
    batch: Batch,
    config: LossConfig,
    *,
    return_metrics: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> LossOutput:
    """Compute a GRPO loss without full logits; arguments and errors as the slow loss has them.

    Without ``return_metrics`` and without a KL term, tokens of zero advantage are not scored at
    all: they have neither loss nor gradient.

    Args:
        policy: hidden states and head.
        batch: the cleaned micro-batch, see :func:`grpoenv_runtime.make_batch`.
        config: the variant and its options, see :func:`grpoenv_runtime.loss_config`.
        return_metrics: fill in ``metrics``, from the same pass.
        budget_bytes: working memory of the kernels beyond inputs and outputs.

    """
    policy.check(batch)
    run = _two_phases if two_phase_reason(batch, config) is not None else _one_sweep
    return run(policy, batch, config, return_metrics, budget_bytes)


def _one_sweep(
    policy: Policy, batch: Batch, config: LossConfig, return_metrics: bool, budget: int
) -> LossOutput:
    shape = batch.mask.shape
    found = linear_objective(
        policy.hidden.flatten(0, 1),
        policy.weight,
        _targets(batch, config, return_metrics),
        _row_objective(batch, config, policy.dtype),
        entropy=return_metrics,
        **_head_arguments(policy, config, budget),
    )
    logps = found.logps.view(shape)
    metrics = {}
    if return_metrics and found.entropies is not None:
        with torch.no_grad():
            evaluation = evaluate(logps, found.entropies.view(shape), batch, config)
        metrics = collect_metrics(evaluation, batch, config)
    return LossOutput(found.loss, metrics, logps)


def _two_phases(
    policy: Policy, batch: Batch, config: LossConfig, return_metrics: bool, budget: int
) -> LossOutput:
    shape = batch.mask.shape
    found = linear_logprob(
        policy.hidden.flatten(0, 1),
        policy.weight,
        batch.ids.reshape(-1),
        entropy=return_metrics or config.needs_entropy,
        **_head_arguments(policy, config, budget),
    )
    entropies = None if found.entropies is None else found.entropies.view(shape)
    evaluation = evaluate(found.logps.view(shape), entropies, batch, config)
    metrics = collect_metrics(evaluation, batch, config) if return_metrics else {}
    return LossOutput(evaluation.loss, metrics, evaluation.logps.detach())


_BATCH_EXTRAS = ("tool_mask", "sampling_logps", "sampling_ratio")


@overload
def grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    mask: Tensor,
    advantages: Tensor,
    old_logps: Tensor | None = None,
    ref_logps: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    return_metrics: Literal[False] = False,
    **config: Any,
) -> Tensor: ...


@overload
def grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    mask: Tensor,
    advantages: Tensor,
    old_logps: Tensor | None = None,
    ref_logps: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    return_metrics: Literal[True],
    **config: Any,
) -> LossOutput: ...


def grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    mask: Tensor,
    advantages: Tensor,
    old_logps: Tensor | None = None,
    ref_logps: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    return_metrics: bool = False,
    **config: Any,
) -> Tensor | LossOutput:
    """Compute a GRPO loss in one call, by the fast path.

    Args:
        hidden: ``(B, T, H)``; position ``t`` is the state that predicts ``ids[:, t]``.
        weight: ``(V, H)``, the head.
        ids: ``(B, T)`` completion token ids.
        mask: ``(B, T)``, nonzero where a completion token is valid.
        advantages: ``(B,)`` or ``(B, T)``.
        old_logps: ``(B, T)`` log-probabilities before this update; ``None`` where they equal the
            current ones.
        ref_logps: ``(B, T)`` log-probabilities of the reference model, needed where ``beta`` is
            not 0.
        bias: ``(V,)`` bias of the head, or ``None``.
        return_metrics: return the metrics as well.
        config: the tensors ``tool_mask`` and ``sampling_logps`` ``(B, T)`` and ``sampling_ratio``
            (``(B, T)`` or ``(B, 1)``); every other name as in :func:`loss_config`.

    Returns:
        The scalar loss, or with ``return_metrics`` a :class:`LossOutput`.

    Raises:
        TypeError: an unknown option.
        ValueError: shapes that do not fit, a value out of range, or a tensor that the options need
            is missing.

    """
    extras = {name: config.pop(name) for name in _BATCH_EXTRAS if name in config}
    policy = Policy(hidden, weight, bias)
    batch = make_batch(
        ids, mask, advantages, policy.dtype, old_logps=old_logps, ref_logps=ref_logps, **extras
    )
    found = grpo_compute_loss(policy, batch, loss_config(**config), return_metrics=return_metrics)
    return found if return_metrics else found.loss
