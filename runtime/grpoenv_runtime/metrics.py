"""The figures that trl 1.16 logs beside the loss, under its names.

They are this process's own; a trainer that runs several averages them. One departure from trl: a
masked column never counts, also where ``T`` is 1 (trl takes any ``(B, 1)`` for one value a sequence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from grpoenv_runtime.batch import Batch
from grpoenv_runtime.config import LossConfig
from grpoenv_runtime.evaluation import Evaluation

__all__ = ["collect_metrics"]

Metrics = dict[str, Tensor]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid tokens, or over sequences where there is one value for each: ``(B, 1)``."""
    values = values.to(torch.float32) if values.dtype == torch.bool else values
    if values.shape != mask.shape:
        return values.mean() if values.numel() else values.sum()
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _sequence_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each sequence that has a valid token, ``(b,)``."""
    values = values.to(torch.float32)
    if values.shape != mask.shape:
        return values[:, 0]
    tokens = mask.sum(1)
    means = torch.where(mask, values, 0.0).sum(1) / tokens.clamp(min=1)
    return means[tokens > 0]


def _extreme(values: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    return of(values) if values.numel() else values.new_tensor(torch.nan)


def _clip_metrics(found: Mapping[str, Tensor], mask: Tensor) -> Metrics:
    low, high = found["low"], found["high"]
    return {
        "clip_ratio/low_mean": _mean(low, mask),
        "clip_ratio/low_min": _extreme(_sequence_means(low, mask), torch.min),
        "clip_ratio/high_mean": _mean(high, mask),
        "clip_ratio/high_max": _extreme(_sequence_means(high, mask), torch.max),
        "clip_ratio/region_mean": _mean(low | high, mask),
    }


# What the indicators of a surrogate turn into, by the name of one of them.
_VARIANT_METRICS: Mapping[str, Callable[[Mapping[str, Tensor], Tensor], Metrics]] = {
    "low": _clip_metrics,
    "truncated": lambda found, mask: {"cispo_clip_ratio": _mean(found["truncated"], mask)},
    "phi": lambda found, mask: {"vespo/phi_seq_mean": _mean(found["phi"], mask)},
}


def _variant_metrics(evaluation: Evaluation, batch: Batch, config: LossConfig) -> Metrics:
    terms = evaluation.terms
    if batch.sequence_advantages is not None:
        terms = terms._replace(advantages=batch.sequence_advantages)
    found, metrics = config.surrogate.indicators(terms), Metrics()
    for name, collect in _VARIANT_METRICS.items():
        if name in found:
            metrics.update(collect(found, batch.mask))
    return metrics


def _sampler_metrics(evaluation: Evaluation, batch: Batch) -> Metrics:
    metrics: Metrics = {}
    if evaluation.sampler_ratio is None:
        return metrics
    if batch.sampling_logps is not None:
        old = evaluation.logps if batch.old_logps is None else batch.old_logps
        gap = (old - batch.sampling_logps).abs()
        known = gap[batch.mask & ~gap.isnan()]
        metrics["sampling/sampling_logp_difference/mean"] = _or_zero(known, torch.mean)
        metrics["sampling/sampling_logp_difference/max"] = _or_zero(known, torch.max)
    ratio = evaluation.sampler_ratio
    flat = ratio[batch.mask] if ratio.shape == batch.mask.shape else ratio.flatten()
    for name, of in (("min", torch.min), ("mean", torch.mean), ("max", torch.max)):
        metrics[f"sampling/importance_sampling_ratio/{name}"] = _or_zero(flat, of)
    return metrics


def _or_zero(values: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    return of(values) if values.numel() else values.new_tensor(0.0)


@torch.no_grad()
def collect_metrics(evaluation: Evaluation, batch: Batch, config: LossConfig) -> Metrics:
    """Return the figures by trl's names, scalars without gradient.

    ``kl`` (with a KL term), ``entropy`` (if known), the variant's clip figures, ``policy_loss`` and
    ``entropy_coef`` (with an entropy bonus), the sampler's statistics (with a correction).
    """
    metrics: Metrics = {}
    if evaluation.kl is not None:
        metrics["kl"] = _mean(evaluation.kl, batch.mask)
    if evaluation.entropies is not None:
        metrics["entropy"] = _mean(evaluation.entropies, batch.mask)
    if config.entropy_coef != 0:
        metrics["policy_loss"] = evaluation.policy_loss
        metrics["entropy_coef"] = torch.tensor(config.entropy_coef)
    metrics.update(_variant_metrics(evaluation, batch, config))
    metrics.update(_sampler_metrics(evaluation, batch))
    return metrics
