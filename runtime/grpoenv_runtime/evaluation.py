"""The loss of a batch whose log-probabilities are known: the formulas shared by every path."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grpoenv_runtime.batch import Batch
from grpoenv_runtime.config import LossConfig
from grpoenv_runtime.normalisers import per_generated_token
from grpoenv_runtime.surrogates import GammaWeight, Terms, sequence_log_weight

__all__ = [
    "Evaluation",
    "evaluate",
    "high_entropy_mask",
    "kl_term",
    "required_reference",
    "sampler_ratio",
]


class Evaluation(NamedTuple):
    """A loss and the quantities that its metrics are made of.

    Attributes:
        loss: scalar, with gradient.
        policy_loss: scalar, the loss before entropy bonus and accumulation, without gradient.
        logps: ``(B, T)``, 0 where masked.
        entropies: ``(B, T)``, 0 where masked, or ``None``.
        terms: what the policy term was computed from.
        kl: ``(B, T)``, or ``None`` without a KL term.
        sampler_ratio: ``(B, T)`` or ``(B, 1)``, or ``None``.

    """

    loss: Tensor
    policy_loss: Tensor
    logps: Tensor
    entropies: Tensor | None
    terms: Terms
    kl: Tensor | None
    sampler_ratio: Tensor | None


def kl_term(logps: Tensor, ref_logps: Tensor, ratio: Tensor, config: LossConfig) -> Tensor:
    """Return the KL estimate of each token, ``e^x - x - 1`` with ``x = l_ref - l``.

    The estimator ``k3`` of http://joschu.net/blog/kl-approx.html, equation 4 of arXiv 2402.03300;
    with ``use_bias_correction_kl`` times the ratio, through which gradients flow. Not clamped.
    """
    gap = ref_logps - logps
    estimate = torch.expm1(gap) - gap
    return estimate * ratio if config.use_bias_correction_kl else estimate


def sampler_ratio(batch: Batch, old_logps: Tensor, config: LossConfig) -> Tensor | None:
    """Return the correction for the sampling engine: the batch's own, else computed, else none.

    Raises:
        ValueError: a correction is asked for, and the batch has neither ratio nor log-probabilities
            of the sampler.

    """
    if batch.sampling_ratio is not None or config.sampler is None:
        return batch.sampling_ratio
    if batch.sampling_logps is None:
        raise ValueError("a sampler correction needs sampling_logps or sampling_ratio")
    return config.sampler.ratio(old_logps, batch.sampling_logps, batch.mask)


def high_entropy_mask(
    entropies: Tensor, mask: Tensor, share: float, num_processes: int = 1
) -> Tensor:
    """Return ``(B, T)`` bool, ``True`` at the valid tokens of highest entropy.

    Args:
        entropies: ``(B, T)``.
        mask: ``(B, T)`` bool, ``True`` where valid.
        share: part of the valid tokens to keep (arXiv 2506.01939): those at or above the
            ``1 - share`` quantile.
        num_processes: processes whose tokens the quantile is taken over; if there are several, all
            of the default process group must call this.

    """
    known = entropies.detach()
    values = known[mask] if num_processes == 1 else _gather(known[mask], num_processes)
    if not len(values):
        return torch.zeros_like(mask)
    return mask & (known >= torch.quantile(values, 1 - share))


def _gather(values: Tensor, num_processes: int) -> Tensor:
    """Return the values ``[n]`` of every process of the default group, which differ in number."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() != num_processes:
        found = dist.get_world_size() if dist.is_initialized() else 1
        raise ValueError(
            f"num_processes is {num_processes}, but {found} take part in the process group: the "
            "entropy quantile is taken over all of them"
        )
    counts = [values.new_zeros((), dtype=torch.long) for _ in range(num_processes)]
    dist.all_gather(counts, torch.tensor(len(values), device=values.device))
    padded = torch.zeros(
        max(int(count) for count in counts), dtype=values.dtype, device=values.device
    )
    parts = [torch.empty_like(padded) for _ in counts]
    padded[: len(values)] = values
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def _off_policy_keep(logps: Tensor, old_logps: Tensor, batch: Batch, threshold: float) -> Tensor:
    """Return ``(B, T)`` bool, ``False`` in sequences of negative advantage that drifted too far."""
    sampled = old_logps if batch.sampling_logps is None else batch.sampling_logps
    drift = torch.where(batch.mask, (sampled - logps.detach()).nan_to_num(nan=0.0), 0.0)
    mean = drift.sum(1, keepdim=True) / batch.mask.sum(1, keepdim=True).clamp(min=1)
    return (batch.advantages >= 0) | (mean <= threshold)


def _ratio(log_ratio: Tensor, batch: Batch, config: LossConfig) -> Tensor:
    if not config.sequence_level:
        return log_ratio.exp()
    return (log_ratio.sum(1, keepdim=True) / batch.mask.sum(1, keepdim=True).clamp(min=1)).exp()


def _policy_terms(
    terms: Terms, old_logps: Tensor, sampled: Tensor | None, batch: Batch, config: LossConfig
) -> Tensor:
    """Return the policy term of each token, ``(B, T)``, with its off-policy mask and correction."""
    loss = config.surrogate.loss(terms).expand_as(batch.advantages)
    if config.off_policy_mask_threshold is not None:
        keep = _off_policy_keep(terms.logps, old_logps, batch, config.off_policy_mask_threshold)
        loss = torch.where(keep, loss, 0.0)
    if sampled is not None and not isinstance(config.surrogate, GammaWeight):
        loss = loss * sampled
    return loss


def _required_entropies(
    entropies: Tensor | None, batch: Batch, config: LossConfig
) -> Tensor | None:
    if entropies is not None:
        return torch.where(batch.mask, entropies, 0.0)
    if config.needs_entropy:
        raise ValueError("this loss reads entropies, and none were given")
    return None


def required_reference(batch: Batch, config: LossConfig) -> Tensor | None:
    """Return the reference's log-probabilities if the loss has a KL term.

    Raises:
        ValueError: it has one, and the batch has no reference.

    """
    if config.beta == 0:
        return None
    if batch.ref_logps is None:
        raise ValueError(f"beta is {config.beta}, which needs ref_logps")
    return batch.ref_logps


def evaluate(
    logps: Tensor, entropies: Tensor | None, batch: Batch, config: LossConfig
) -> Evaluation:
    """Compute the loss of ``batch`` from log-probabilities.

    Args:
        logps: ``(B, T)``, float32 or float64; masked columns may hold anything.
        entropies: ``(B, T)``, or ``None`` if neither the loss nor a metric reads them.
        batch: the cleaned batch.
        config: the variant and its options.

    Raises:
        ValueError: the KL term without ``ref_logps``, a sampler correction without the sampler's
            log-probabilities, a loss that reads entropies without them, an entropy quantile over
            processes that do not form a process group.

    """
    mask = batch.mask
    logps, entropies = torch.where(mask, logps, 0.0), _required_entropies(entropies, batch, config)
    old = logps.detach() if batch.old_logps is None else batch.old_logps
    log_ratio, sampled = logps - old, sampler_ratio(batch, old, config)
    ratio = _ratio(log_ratio, batch, config)
    terms = Terms(logps, ratio, batch.advantages, sequence_log_weight(log_ratio, sampled))
    chosen, kl, reference = mask, None, required_reference(batch, config)
    if entropies is not None and config.top_entropy_quantile < 1:
        chosen = high_entropy_mask(
            entropies, mask, config.top_entropy_quantile, config.normalisation.num_processes
        )
    total = torch.where(chosen, _policy_terms(terms, old, sampled, batch, config), 0.0)
    if reference is not None:
        kl = kl_term(logps, reference, ratio, config)
        total = total + config.beta * torch.where(mask, kl, 0.0)
    where = config.normalisation
    loss = (total * config.normaliser(where, mask, logps.dtype)).sum()
    outside = 1 if config.normaliser is per_generated_token else where.accumulation
    policy_loss = loss.detach() * outside
    if entropies is not None and config.entropy_coef != 0:
        mean = torch.where(chosen, entropies, 0.0).sum() / chosen.sum().clamp(min=1)
        loss = loss - config.entropy_coef * mean / where.accumulation
    return Evaluation(loss, policy_loss, logps, entropies, terms, kl, sampled)
