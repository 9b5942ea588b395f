"""Fused linear log-probabilities: tensors in, tensors out; knows nothing of trainers."""

from grpoenv_kernels.adapter import LowRank
from grpoenv_kernels.logprob import TokenScores, linear_logprob
from grpoenv_kernels.parallel import parallel_linear_logprob, parallel_linear_objective
from grpoenv_kernels.sweep import SweepResult, linear_objective

__all__ = [
    "LowRank",
    "SweepResult",
    "TokenScores",
    "linear_logprob",
    "linear_objective",
    "parallel_linear_logprob",
    "parallel_linear_objective",
]
