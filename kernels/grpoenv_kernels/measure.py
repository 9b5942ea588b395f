"""Times against the floor: how long the unavoidable matrix products take on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Timing", "clock", "matmul_rate", "time_runs"]


class Timing(NamedTuple):
    """Seconds of repeated runs: wall time on a GPU, CPU time of the process on a CPU.

    A busy machine lengthens the wall time of whoever runs at that moment, CPU time hardly.
    """

    median: float
    least: float
    most: float

    @staticmethod
    def of(seconds: list[float]) -> Timing:
        """Summarise at least one run."""
        return Timing(statistics.median(seconds), min(seconds), max(seconds))


def clock(device: torch.device) -> float:
    """Return a time in seconds once the device has finished what it was given."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def time_runs(run: Callable[[], object], repeats: int, device: torch.device) -> Timing:
    """Time ``run``, after once untimed."""
    run()
    seconds = []
    for _ in range(repeats):
        start = clock(device)
        run()
        seconds.append(clock(device) - start)
    return Timing.of(seconds)


def matmul_rate(hidden: Tensor, weight: Tensor, repeats: int = 5) -> float:
    """Return the best FLOP/s of the three products of a head, in the dtype of its tensors.

    Args:
        hidden: ``[N, H]``, of which at most 2048 rows are used.
        weight: ``[V, H]``, of which at most 32768 rows are used.
        repeats: timed runs of each product.

    """
    hidden, weight = hidden.detach()[:2048], weight.detach()[:32768]
    logits = hidden @ weight.t()
    products: list[Callable[[], Tensor]] = [
        lambda: torch.mm(hidden, weight.t(), out=logits),
        lambda: logits @ weight,
        lambda: logits.t() @ hidden,
    ]
    flops = 2 * hidden.shape[0] * weight.shape[0] * weight.shape[1]
    return max(flops / time_runs(run, repeats, hidden.device).least for run in products)
