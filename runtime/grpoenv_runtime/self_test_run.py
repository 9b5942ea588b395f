"""The self-test: the registry is complete, and the fast loss equals the slow one, on this machine.

At import a quick one runs once for each environment. Where the fast loss is unsound the slow one
takes its place in this process, with one warning. On a machine with an accelerator the quick test
compares values on the CPU only: to use the device, or the first backward pass of a process, asks
the driver for devices and makes autograd fail in forked children. So the rest is compared at the
first use of the loss on each kind of device, and only a pass on an accelerator is remembered.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Literal, NamedTuple

import torch

from grpoenv import __version__
from grpoenv_runtime import fast, slow
from grpoenv_runtime.batch import Batch
from grpoenv_runtime.config import LossConfig
from grpoenv_runtime.policy import LossOutput, Policy
from grpoenv_runtime.registry import Registry, check_registry
from grpoenv_runtime.self_test_cache import accelerator_present, fingerprint, remember_pass
from grpoenv_runtime.self_test_cases import (
    QUICK_CASES,
    Case,
    deep_cases,
    disagreement,
    undisturbed,
)

__all__ = ["Check", "Report", "UnsoundFastPathWarning", "run_at_import", "self_test"]

Outcome = Literal["passed", "failed", "skipped"]


class UnsoundFastPathWarning(RuntimeWarning):
    """The fast loss is wrong on this machine; the slow one is used."""


class Check(NamedTuple):
    """One row of the report; `detail` says what failed or why it was skipped."""

    name: str
    outcome: Outcome
    detail: str = ""
    duration_ms: float = 0.0


class Report(NamedTuple):
    """What the self-test found."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def sound(self) -> bool:
        """Whether none failed."""
        return not self.failed

    def table(self) -> str:
        """Return the report as text, one line for each check and one for the whole."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [
            f"{check.name:<{width}}  {check.outcome:<7}  {check.duration_ms:7.1f} ms  "
            f"{check.detail}".rstrip()
            for check in self.checks
        ]
        counts = [
            f"{self._count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped")
        ]
        head = f"grpoenv {__version__}, torch {torch.__version__}"
        return "\n".join([head, *lines, ", ".join(counts)])

    def _count(self, outcome: str) -> int:
        return sum(check.outcome == outcome for check in self.checks)


def self_test(deep: bool = False) -> Report:
    """Run the self-test now and return what it found; nothing is replaced and nothing remembered.

    Args:
        deep: every variant, level and dtype, and the same on the GPU, where this initialises CUDA.

    Raises:
        ImportError: the registry is incomplete.

    """
    with undisturbed():
        checks = [_registry_check(), *_compare(deep_cases() if deep else QUICK_CASES)]
        if deep:
            checks += _gpu_checks()
    return Report(tuple(checks))


def run_at_import() -> None:
    """Run the quick test; let the slow loss take over if it fails, remember it if it passes.

    Raises:
        ImportError: the registry is incomplete.

    """
    check_registry(Registry())
    rest_later = accelerator_present()
    with undisturbed(threads=1):
        report = Report(tuple(_compare(QUICK_CASES, gradients=not rest_later)))
    if not report.sound:
        _take_over(report)
    elif rest_later:
        _test_at_first_use()
    else:
        remember_pass(fingerprint())


def _registry_check() -> Check:
    start = time.perf_counter()
    check_registry(Registry())
    return Check("registry", "passed", duration_ms=(time.perf_counter() - start) * 1e3)


def _compare(cases: Iterable[Case], *, gradients: bool = True) -> Iterable[Check]:
    for case in cases:
        start = time.perf_counter()
        detail = disagreement(case, gradients=gradients)
        duration_ms = (time.perf_counter() - start) * 1e3
        yield Check(case.name, "failed" if detail else "passed", detail or "", duration_ms)


def _gpu_checks() -> list[Check]:
    if not torch.cuda.is_available():
        return [Check("the same on a GPU", "skipped", "torch sees no CUDA device")]
    return list(_compare(_cases_on("cuda", deep_cases())))


def _cases_on(device: str, cases: Iterable[Case]) -> Iterable[Case]:
    if device == "cpu":
        return cases
    return [case._replace(name=f"{case.name}, {device}", device=device) for case in cases]


@wraps(fast.grpo_compute_loss)
def _slow_stand_in(
    policy: Policy,
    batch: Batch,
    config: LossConfig,
    *,
    return_metrics: bool = False,
    budget_bytes: int = 0,
) -> LossOutput:
    return slow.grpo_compute_loss_slow(policy, batch, config, return_metrics=return_metrics)


def _take_over(report: Report) -> None:
    # The module's own name is replaced, so that grpo_loss and every later import see it.
    fast.grpo_compute_loss = _slow_stand_in
    check = report.failed[0]
    warnings.warn(
        f"grpoenv {__version__} with torch {torch.__version__}: the fast GRPO loss failed its "
        f"self-test ({check.name}: {check.detail}); the slow loss is used instead, which needs "
        "more memory. Please report this with the output of `python -m grpoenv_runtime`.",
        UnsoundFastPathWarning,
        stacklevel=2,
    )


def _test_at_first_use() -> None:
    sound = fast.grpo_compute_loss
    once, tested = threading.Lock(), set[str]()

    @wraps(sound)
    def tested_first(policy: Policy, *arguments: Any, **options: Any) -> LossOutput:
        kind = policy.hidden.device.type
        with once:
            if fast.grpo_compute_loss is tested_first and kind not in tested:
                tested.add(kind)
                fast.grpo_compute_loss = sound
                _settle(kind, waiting=tested_first)
            run = fast.grpo_compute_loss
        return (sound if run is tested_first else run)(policy, *arguments, **options)

    fast.grpo_compute_loss = tested_first


def _settle(kind: str, waiting: Callable[..., LossOutput]) -> None:
    """Test on one kind of device; after a CPU's pass, an accelerator is still waited for."""
    with undisturbed(threads=1):
        report = Report(tuple(_compare(_cases_on(kind, QUICK_CASES))))
    if not report.sound:
        _take_over(report)
    elif kind == "cpu":
        fast.grpo_compute_loss = waiting
    else:
        remember_pass(fingerprint())
