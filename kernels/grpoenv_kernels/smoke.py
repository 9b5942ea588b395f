"""A check that any user can run: whether the kernels are right on a device, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grpoenv_kernels.logprob import linear_logprob
from grpoenv_kernels.measure import matmul_rate, time_runs
from grpoenv_kernels.sweep import linear_objective

__all__ = ["HEADS", "Parity", "Smoke", "Speed", "run_smoke"]

_GRADIENTS = ("d hidden", "d weight", "d bias")


class _Options(NamedTuple):
    biased: bool = False
    temperature: float = 1.0
    softcap: float | None = None

    @property
    def leaves(self) -> int:
        """How many of hidden, weight and bias have a gradient."""
        return 2 + self.biased

    def arguments(self, bias: Tensor) -> dict[str, Any]:
        """Arguments of the functions under test."""
        chosen = bias if self.biased else None
        return {"bias": chosen, "temperature": self.temperature, "softcap": self.softcap}


HEADS = {
    "plain": _Options(),
    "bias, temperature": _Options(biased=True, temperature=0.7),
    "softcap": _Options(softcap=3.0),
}
"""The heads that parity is checked for."""

# The results of float32 runs differ by the order of sums only.
_FLOAT32_NOISE = 2e-6


@dataclass(frozen=True)
class Parity:
    """Relative errors (2-norm) of one quantity against float64.

    Attributes:
        dtype: of the inputs.
        head: what the head does beyond the product, see :data:`HEADS`.
        what: the quantity.
        ours: the error of this package.
        plain: the error of plain PyTorch at the same dtype.

    """

    dtype: str
    head: str
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
        parity: one entry for each dtype, head and quantity.
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


def run_smoke(device: torch.device, timed: bool = True) -> Smoke:
    """Check parity and, if ``timed``, speed: some ten seconds on a CPU, less on a GPU."""
    on_cpu = device.type == "cpu"
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    sizes = (256, 512, 32_768) if on_cpu else (8192, 4096, 128_256)
    name = "CPU" if on_cpu else torch.cuda.get_device_name(device)
    parity = [each for dtype in dtypes for name in HEADS for each in _parity(dtype, device, name)]
    fast = [torch.float32, torch.bfloat16] if on_cpu else [torch.bfloat16]
    speed = [each for dtype in fast if timed for each in _speed(dtype, device, sizes)]
    return Smoke(name, sizes, parity, speed)


def _problem(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(1)
    hidden = torch.randn(rows, width, generator=generator, device=device)
    weight = torch.randn(vocabulary, width, generator=generator, device=device).div_(width**0.5)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device=device)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def _plain(leaves: list[Tensor], targets: Tensor, head: _Options) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies from full logits, rounded to the dtype of the tensors."""
    hidden, weight, bias = leaves
    logits = torch.nn.functional.linear(hidden, weight, bias if head.biased else None)
    logits = logits.to(torch.promote_types(hidden.dtype, torch.float32))
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    every = torch.log_softmax(logits / head.temperature, 1)
    return every.gather(1, targets[:, None])[:, 0], -(every.exp() * every).sum(1)


def _parity(dtype: torch.dtype, device: torch.device, name: str) -> list[Parity]:
    hidden, weight, targets = _problem(257, 192, 5003, dtype, device)
    head, bias = HEADS[name], weight.detach()[:, 0].clone().requires_grad_()
    leaves, exact = [hidden, weight, bias], []
    for leaf in leaves:
        exact.append(leaf.detach().double().requires_grad_())
    best = _scored(*_plain(exact, targets, head), exact, head)
    plain = _scored(*_plain(leaves, targets, head), leaves, head)
    scores = linear_logprob(hidden, weight, targets, entropy=True, **head.arguments(bias))
    found = {"": _scored(scores.logps, _present(scores.entropies), leaves, head)}
    found[", frozen head, one sweep"] = _swept(leaves, targets, head, trainable=False)
    found[", one sweep"] = _swept(leaves, targets, head, trainable=True)
    return [
        Parity(
            _name(dtype),
            name,
            what + how,
            _error(mine, best[what]),
            _error(plain[what], best[what]),
        )
        for how, quantities in found.items()
        for what, mine in quantities.items()
    ]


def _present(entropies: Tensor | None) -> Tensor:
    assert entropies is not None
    return entropies


def _upstream(like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, len(like), device=like.device, dtype=like.dtype)


def _scored(
    logps: Tensor, entropies: Tensor, leaves: list[Tensor], head: _Options
) -> dict[str, Tensor]:
    """Values, and gradients of a sum of the log-probabilities."""
    grads = torch.autograd.grad((logps * _upstream(logps)).sum(), leaves[: head.leaves])
    values = {"log-probability": logps.detach(), "entropy": entropies.detach()}
    return values | dict(zip(_GRADIENTS, grads, strict=False))


def _swept(
    leaves: list[Tensor], targets: Tensor, head: _Options, trainable: bool
) -> dict[str, Tensor]:
    hidden, weight, bias = leaves
    wanted = [hidden] if not trainable else leaves[: head.leaves]
    weight.requires_grad_(trainable), bias.requires_grad_(trainable)
    found = linear_objective(
        hidden,
        weight,
        targets,
        lambda logps, rows: logps * _upstream(targets.to(logps.dtype))[rows],
        **head.arguments(bias),
    )
    grads = torch.autograd.grad(found.loss, wanted)
    weight.requires_grad_(), bias.requires_grad_()
    return dict(zip(_GRADIENTS, grads, strict=False))


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
