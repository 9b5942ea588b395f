from __future__ import annotations

import grpoenv_kernels


def test_the_public_names_are_these_and_exist():
    assert grpoenv_kernels.__all__ == [
        "LowRank",
        "SweepResult",
        "TokenScores",
        "linear_logprob",
        "linear_objective",
        "parallel_linear_logprob",
        "parallel_linear_objective",
    ]
    assert all(hasattr(grpoenv_kernels, name) for name in grpoenv_kernels.__all__)
