"""GRPO losses, their registry and its self-test, for use in training scripts."""

from grpoenv_runtime.batch import Batch, make_batch
from grpoenv_runtime.config import LOSS_TYPES, LossConfig, loss_config
from grpoenv_runtime.evaluation import Evaluation, evaluate
from grpoenv_runtime.fast import grpo_compute_loss, grpo_loss, two_phase_reason
from grpoenv_runtime.metrics import collect_metrics
from grpoenv_runtime.policy import LossOutput, Policy
from grpoenv_runtime.slow import grpo_compute_loss_slow

__all__ = [
    "LOSS_TYPES",
    "Batch",
    "Evaluation",
    "LossConfig",
    "LossOutput",
    "Policy",
    "collect_metrics",
    "evaluate",
    "grpo_compute_loss",
    "grpo_compute_loss_slow",
    "grpo_loss",
    "loss_config",
    "make_batch",
    "two_phase_reason",
]
