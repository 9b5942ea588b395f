from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Any]


@pytest.fixture(autouse=True)
def one_seed_and_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(20250301)
    yield
    torch.set_num_threads(threads)


def policy_logps(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    logp = torch.log_softmax(hidden.double() @ weight.double().t() / temperature, -1)
    return logp.gather(-1, ids[..., None])[..., 0].detach()


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    """Arguments of ``grpo_loss`` for a small batch; log ratios keep away from the clip bounds."""

    def make(
        mask_kind: str = "ragged",
        *,
        sequences: int = 4,
        length: int = 6,
        width: int = 5,
        vocabulary: int = 23,
        dtype: torch.dtype = torch.float64,
        per_token_advantages: bool = False,
        on_policy: bool = False,
        temperature: float = 0.9,
    ) -> Inputs:
        shape = (sequences, length)
        hidden = torch.randn(*shape, width, dtype=torch.float64).to(dtype)
        weight = torch.randn(vocabulary, width, dtype=torch.float64).to(dtype)
        ids = torch.randint(0, vocabulary, shape)
        lengths = {
            "full": torch.full((sequences,), length),
            "ragged": torch.tensor([length, 3, 0, 1])[:sequences],
            "none": torch.zeros(sequences, dtype=torch.long),
        }[mask_kind]
        mask = (torch.arange(length)[None] < lengths[:, None]).long()
        logps = policy_logps(hidden, weight, ids, temperature)
        steps = torch.tensor([-0.7, -0.3, -0.1, 0.0, 0.1, 0.3, 0.7], dtype=torch.float64)

        def near(value: Tensor) -> Tensor:
            return value - steps[torch.randint(0, len(steps), shape)]

        advantages = torch.randn(*(shape if per_token_advantages else shape[:1])).double()
        advantages.view(-1)[-1] = 0
        return {
            "hidden": hidden.requires_grad_(),
            "weight": weight.requires_grad_(),
            "ids": ids,
            "mask": mask,
            "advantages": advantages,
            "old_logps": None if on_policy else near(logps),
            "ref_logps": near(logps),
            "temperature": temperature,
        }

    return make


@pytest.fixture(scope="session")
def slow_call() -> Callable[..., Any]:
    """The slow loss, called with the arguments of ``grpo_loss``; returns a ``LossOutput``."""
    from grpoenv_runtime import Policy, grpo_compute_loss_slow, loss_config, make_batch

    def call(**arguments: Any) -> Any:
        policy = Policy(
            arguments.pop("hidden"), arguments.pop("weight"), arguments.pop("bias", None)
        )
        names = ("ids", "mask", "advantages", "old_logps", "ref_logps", "tool_mask")
        names += ("sampling_logps", "sampling_ratio")
        tensors = {name: arguments.pop(name) for name in names if name in arguments}
        first = [tensors.pop(name) for name in ("ids", "mask", "advantages")]
        batch = make_batch(*first, policy.dtype, **tensors)
        return grpo_compute_loss_slow(policy, batch, loss_config(**arguments), return_metrics=True)

    return call


@pytest.fixture
def slow_loss(slow_call: Callable[..., Any]) -> Callable[..., Any]:
    return slow_call


@pytest.fixture
def relative_error() -> Callable[..., float]:
    def error(found: Tensor, expected: Tensor) -> float:
        found, expected = found.detach().double(), expected.detach().double()
        scale = float(expected.norm())
        return float((found - expected).norm()) / (scale if scale else 1.0)

    return error


@pytest.fixture
def loss_error(slow_loss: Callable[..., Any]) -> Callable[..., float]:
    """Relative error of a loss; one that cancels is measured by what cancels in it.

    The sum of the sizes of the terms is the loss of the same batch with all advantages of one sign.
    """

    def error(found: Tensor, expected: Tensor, inputs: Inputs, options: Inputs) -> float:
        found, expected = found.detach().double(), expected.detach().double()
        gap, scale = float((found - expected).abs()), float(expected.abs())
        if gap <= 1e-6 * scale:
            return gap / scale if scale else gap
        one_sign = {**inputs, "advantages": -inputs["advantages"].abs()}
        return gap / max(scale, float(slow_loss(**one_sign, **options).loss.detach().abs()))

    return error
