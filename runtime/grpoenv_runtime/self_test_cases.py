"""The cases of the self-test: small seeded batches on which the fast loss must equal the slow one.

Every batch has the rows that implementations get wrong: one wholly masked, one of a single token,
one of zero advantage, and garbage (NaN, infinities) wherever the mask says that nothing counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch

from grpoenv_runtime import fast, slow
from grpoenv_runtime.batch import Batch, make_batch
from grpoenv_runtime.config import LOSS_TYPES, LossConfig, loss_config
from grpoenv_runtime.policy import LossOutput, Policy

__all__ = ["QUICK_CASES", "Case", "SlowLossError", "deep_cases", "disagreement", "undisturbed"]

_MASK: Final = ((1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 0, 0), (1, 1, 1, 0))
_ADVANTAGES: Final = (1.5, 0.7, -0.8, 0.0)
_HIDDEN, _VOCABULARY, _SEED = 3, 7, 20250316
# Of the largest element: the fp32 tolerance of the tests, and four times the spacing of bf16 and fp16.
_TOLERANCE: Final = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-6,
    torch.float16: 2**-9,
}


class SlowLossError(ImportError):
    """The slow loss itself cannot run here, so nothing can stand in for the fast one."""

    def __init__(self, case: str, reason: str) -> None:
        super().__init__(
            f"the slow GRPO loss fails on this machine ({case}: {reason}) with torch "
            f"{torch.__version__}; reinstall torch, or see `python -m grpoenv_runtime`"
        )
        self.case = case
        self.reason = reason


class Case(NamedTuple):
    """One comparison; `options` are those of `loss_config`."""

    name: str
    options: Mapping[str, Any]
    dtype: torch.dtype = torch.float32
    old_logps: bool = True
    device: str = "cpu"


def _case(loss_type: str, level: str = "token", **options: Any) -> Case:
    options = {"loss_type": loss_type, "importance_sampling_level": level, **options}
    options = {"max_completion_length": 4, "num_items_in_batch": 8, **options}
    return Case(f"{loss_type}, {level} ratio", options)


# One of each family: clipped ratio at both levels, truncated ratio, soft gate, gamma weight.
QUICK_CASES: Final = (
    _case("dapo", beta=0.04, delta=1.5),
    _case("grpo", "sequence", beta=0.04),
    _case("cispo", epsilon_high=2.0),
    _case("sapo", beta=0.04),
    _case("vespo"),
)


def deep_cases() -> Iterator[Case]:
    """Yield every variant at both levels and each dtype, on and off policy, and the extras."""
    for loss_type in LOSS_TYPES:
        for level in ("token", "sequence"):
            base = _case(loss_type, level, beta=0.04)
            for dtype in _TOLERANCE:
                name = f"{base.name}, {str(dtype).removeprefix('torch.')}"
                yield Case(name, base.options, dtype)
            yield Case(f"{base.name}, on policy", base.options, old_logps=False)
    extras: dict[str, dict[str, Any]] = {
        "softcap, scale and temperature": {"softcap": 5.0, "logit_scale": 0.5, "temperature": 0.7},
        "entropy bonus": {"entropy_coef": 0.01},
        "top-entropy mask": {"top_entropy_quantile": 0.5},
        "KL without correction": {"use_bias_correction_kl": False},
    }
    for name, options in extras.items():
        base = _case("dapo", beta=0.04, **options)
        yield Case(f"dapo, {name}", base.options)


@contextmanager
def undisturbed(threads: int | None = None) -> Iterator[None]:
    """Run with gradients on, autocast off and, if given, `threads` threads; restore all of it.

    One thread: a second one on a busy machine costs a scheduler's slice (8 ms) for each operation.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def disagreement(case: Case, *, gradients: bool = True) -> str | None:
    """Compare the two losses on `case`; return what differs, or None.

    `gradients=False` compares values only and does not enter the autograd engine, whose first use
    on a machine with a GPU asks the driver and makes autograd fail in forked children.
    """
    hidden, weight, batch = _inputs(case)
    policy = Policy(hidden.requires_grad_(gradients), weight.requires_grad_(gradients))
    config = loss_config(**case.options)
    expected = _oracle(case, policy, batch, config, gradients)
    try:
        found = _results(fast.grpo_compute_loss(policy, batch, config), policy, gradients)
    except Exception as error:  # noqa: BLE001 - whatever it raises is what the test looks for
        return f"{type(error).__name__}: {error}"
    for name, oracle in expected.items():
        error_share = _worst(found[name], oracle)
        if not error_share <= _TOLERANCE[case.dtype]:
            return f"{name} differs by {error_share:.1e} of its largest element"
    return None


def _oracle(
    case: Case, policy: Policy, batch: Batch, config: LossConfig, gradients: bool
) -> dict[str, torch.Tensor]:
    try:
        results = _results(slow.grpo_compute_loss_slow(policy, batch, config), policy, gradients)
    except Exception as error:
        raise SlowLossError(case.name, f"{type(error).__name__}: {error}") from error
    for name, result in results.items():
        if not bool(result.isfinite().all()):
            raise SlowLossError(case.name, f"{name} is not finite")
    return results


def _results(output: LossOutput, policy: Policy, gradients: bool) -> dict[str, torch.Tensor]:
    """Return the loss and, if asked for, its gradients, by name."""
    results = {"loss": output.loss.detach()}
    if gradients:
        inputs = {"gradient of hidden": policy.hidden, "gradient of weight": policy.weight}
        # Of twice the loss: an implementation that drops the gradient from above is found out.
        found = torch.autograd.grad(2 * output.loss, list(inputs.values()))
        results.update(zip(inputs, found, strict=True))
    return results


def _worst(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    """Return the largest difference as a share of the oracle's largest element; NaN if any is."""
    if ours.shape != oracle.shape:
        return float("inf")
    scale = max(float(oracle.abs().max()), 1e-3)
    return float((ours.double() - oracle.double()).abs().max()) / scale


def _inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    generator = torch.Generator("cpu").manual_seed(_SEED)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")

    mask = torch.tensor(_MASK, device="cpu")
    shape = tuple(mask.shape)
    hidden = random(*shape, _HIDDEN).to(case.device, case.dtype)
    weight = random(_VOCABULARY, _HIDDEN).to(case.device, case.dtype)
    ids = torch.randint(_VOCABULARY, shape, generator=generator, device="cpu")
    worst = torch.tensor([[-200.0], [torch.nan], [torch.inf], [0.0]], device="cpu")
    garbage = torch.where(mask != 0, 0.0, worst)
    old, reference = (-2 + 0.3 * random(*shape) + garbage for _ in range(2))
    dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    batch = make_batch(
        ids.to(case.device),
        mask.to(case.device),
        torch.tensor(_ADVANTAGES, dtype=dtype, device=case.device),
        dtype,
        old_logps=old.to(case.device) if case.old_logps else None,
        ref_logps=reference.to(case.device) if case.options.get("beta") else None,
    )
    return hidden, weight, batch
