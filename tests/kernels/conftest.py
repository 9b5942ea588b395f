from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def one_seed_and_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(20250301)
    yield
    torch.set_num_threads(threads)


class HeadProblem(NamedTuple):
    hidden: Tensor
    weight: Tensor
    bias: Tensor
    targets: Tensor
    temperature: Tensor

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias


@pytest.fixture
def make_problem() -> Callable[..., HeadProblem]:
    def make(
        rows: int = 13,
        vocabulary: int = 101,
        width: int = 8,
        dtype: torch.dtype = torch.float64,
        unlabelled: int = 2,
    ) -> HeadProblem:
        targets = torch.randint(0, vocabulary, (rows,))
        targets[:unlabelled] = -100
        return HeadProblem(
            torch.randn(rows, width, dtype=dtype).requires_grad_(),
            torch.randn(vocabulary, width, dtype=dtype).requires_grad_(),
            torch.randn(vocabulary, dtype=dtype).requires_grad_(),
            targets,
            torch.rand(rows) + 0.5,
        )

    return make


@pytest.fixture
def plain_scores() -> Callable[..., tuple[Tensor, Tensor]]:
    """Log-probabilities and entropies from full logits, in the dtype of the tensors given.

    With ``wide``, the logits are of that dtype and all that follows is float32.
    """

    def scores(
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        *,
        bias: Tensor | None = None,
        temperature: float | Tensor = 1.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        wide: bool = False,
    ) -> tuple[Tensor, Tensor]:
        logits = hidden @ weight.t()
        logits = logits if bias is None else logits + bias
        logits = (logits.float() if wide else logits) * logit_scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if isinstance(temperature, Tensor):
            temperature = temperature[:, None].to(logits.dtype)
        logp = torch.log_softmax(logits / temperature, -1)
        labelled = targets >= 0
        chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
        finite = logp.masked_fill(logp == -torch.inf, 0.0)
        entropy = -(logp.exp() * finite).sum(1)
        zero = torch.zeros_like(entropy)
        return torch.where(labelled, chosen, zero), torch.where(labelled, entropy, zero)

    return scores


@pytest.fixture
def relative_error() -> Callable[..., float]:
    def error(found: Tensor, expected: Tensor) -> float:
        found, expected = found.detach().double(), expected.detach().double()
        scale = float(expected.norm())
        return float((found - expected).norm()) / (scale if scale else 1.0)

    return error
