"""A check that any user can run: whether the kernels are right on a device, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from grpoenv_kernels.logprob import linear_logprob
from grpoenv_kernels.measure import matmul_rate, time_runs
from grpoenv_kernels.sweep import linear_objective

__all__ = ["Parity", "Smoke", "Speed", "run_smoke"]

# The results of float32 runs differ by the order of sums only.
_FLOAT32_NOISE = 2e-6


@dataclass(frozen=True)
class Parity:
    """Relative errors (2-norm) of one quantity against float64.

    Attributes:
        dtype: of the inputs.
        what: the quantity.
        ours: the error of this package.
        plain: the error of plain PyTorch at the same dtype.

    """

    dtype: str
    what: str
    ours: float
    plain: float

    @property
    def holds(self) -> bool:
        """Whether the error is no worse than plain PyTorch's."""
        return self.ours <= max(1.05 * self.plain, _FLOAT32_NOISE)


@dataclass(frozen=True)
class Speed:
    """One timed run, forward and backward.

    Attributes:
        dtype: of the inputs.
        what: what was run.
        milliseconds: median.
        floor: the median over the time of the products that cannot be avoided.

    """

    dtype: str
    what: str
    milliseconds: float
    floor: float


@dataclass(frozen=True)
class Smoke:
    """What the check found.

    Attributes:
        device: name of the device.
        sizes: ``N, H, V`` of the timed runs.
        parity: one entry for each dtype and quantity.
        speed: one entry for each timed run.

    """

    device: str
    sizes: tuple[int, int, int]
    parity: list[Parity]
    speed: list[Speed]

    @property
    def holds(self) -> bool:
        """Whether every parity holds."""
        return all(each.holds for each in self.parity)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON types; ``ok`` says whether every parity holds."""
        return {"ok": self.holds, **asdict(self)}


def run_smoke(device: torch.device) -> Smoke:
    """Run the check: about ten seconds on a CPU, less on a GPU."""
    on_cpu = device.type == "cpu"
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    sizes = (256, 512, 32_768) if on_cpu else (8192, 4096, 128_256)
    name = "CPU" if on_cpu else torch.cuda.get_device_name(device)
    parity = [each for dtype in dtypes for each in _parity(dtype, device)]
    timed = [torch.float32, torch.bfloat16] if on_cpu else [torch.bfloat16]
    speed = [each for dtype in timed for each in _speed(dtype, device, sizes)]
    return Smoke(name, sizes, parity, speed)


def _problem(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator, device=device)
    weight = torch.randn(vocabulary, width, generator=generator, device=device).div_(width**0.5)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device=device)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ weight.t()).to(torch.promote_types(hidden.dtype, torch.float32))
    return torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]


def _parity(dtype: torch.dtype, device: torch.device) -> list[Parity]:
    hidden, weight, targets = _problem(257, 192, 5003, dtype, device)
    upstream = torch.linspace(-1, 1, len(targets), device=device)
    leaves = (hidden, weight)
    exact = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)

    def results(logps: Tensor, leaves: tuple[Tensor, ...]) -> list[Tensor]:
        loss = (logps * upstream.to(logps.dtype)).sum()
        return [logps.detach(), *torch.autograd.grad(loss, leaves)]

    best = results(_plain(exact[0], exact[1], targets), exact)
    plain = results(_plain(*leaves, targets), leaves)
    ours = results(linear_logprob(*leaves, targets).logps, leaves)
    swept = linear_objective(*leaves, targets, lambda logps, rows: logps * upstream[rows])
    ours += torch.autograd.grad(swept.loss, leaves)
    names = [
        "log-probability",
        "d hidden",
        "d weight",
        "d hidden, one sweep",
        "d weight, one sweep",
    ]
    other = [0, 1, 2, 1, 2]
    return [
        Parity(_name(dtype), name, _error(mine, best[at]), _error(plain[at], best[at]))
        for name, mine, at in zip(names, ours, other, strict=True)
    ]


def _error(found: Tensor, best: Tensor) -> float:
    return float((found.double() - best).norm() / best.norm())


def _speed(dtype: torch.dtype, device: torch.device, sizes: tuple[int, int, int]) -> list[Speed]:
    rows, width, vocabulary = sizes
    hidden, weight, targets = _problem(rows, width, vocabulary, dtype, device)
    unit = 2 * rows * width * vocabulary / matmul_rate(hidden, weight)

    def sweep(trainable: bool) -> Callable[[], object]:
        def run() -> object:
            weight.requires_grad_(trainable)
            found = linear_objective(hidden, weight, targets, lambda logps, _: logps)
            leaves = (hidden, weight) if trainable else (hidden,)
            return torch.autograd.grad(found.loss, leaves)

        return run

    found = []
    for what, units, trainable in (("frozen head", 2, False), ("trainable head", 3, True)):
        seconds = time_runs(sweep(trainable), 3, device).median
        found.append(Speed(_name(dtype), what, 1000 * seconds, seconds / (units * unit)))
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
