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
    """Return the best FLOP/s of the three products of a head.

    In the dtype of its tensors, or in float32 if a CPU has no instructions for that and so
    multiplies float32 faster.

    Args:
        hidden: ``[N, H]``, of which at most 2048 rows are used.
        weight: ``[V, H]``, of which at most 32768 rows are used.
        repeats: timed runs of each product.

    """
    hidden, weight = hidden.detach()[:2048], weight.detach()[:32768]
    if hidden.device.type == "cpu" and _is_slow(hidden, weight):
        hidden, weight = hidden.float(), weight.float()
    logits = hidden @ weight.t()
    products: list[Callable[[], Tensor]] = [
        lambda: torch.mm(hidden, weight.t(), out=logits),
        lambda: logits @ weight,
        lambda: logits.t() @ hidden,
    ]
    flops = 2 * hidden.shape[0] * weight.shape[0] * weight.shape[1]
    return max(flops / time_runs(run, repeats, hidden.device).least for run in products)


def _is_slow(hidden: Tensor, weight: Tensor) -> bool:
    """Whether a small product takes longer in the tensors' dtype than in float32."""
    rows, columns = hidden[:64], weight[:512]
    logits = rows @ columns.t()
    wide = logits.float(), columns.float()
    own = time_runs(lambda: logits @ columns, 2, hidden.device)
    return own.least > time_runs(lambda: wide[0] @ wide[1], 2, hidden.device).least
