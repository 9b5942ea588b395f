"""Run a causal language model so that its head scores labels instead of making logits.

The model is called as ever, through every wrapper around it (DDP, FSDP, DeepSpeed, PEFT), so their
hooks see a usual forward pass. Only the last multiplication differs: while the call lasts, the
output embedding hands its hidden states to :func:`grpoenv_kernels.linear_logprob`, and the model
returns ``(B, T', C)`` scores where it would return ``(B, T', V)`` logits. What the model does to its
logits afterwards (scale, softcap) is known from its config, and held against what it really did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from grpoenv_kernels import LowRank, TokenScores, linear_logprob
from grpoenv_runtime.head_terms import LogitOptions, head_terms, logit_options, multiplying_module

__all__ = ["HeadRequest", "causal_model", "score_labels"]

_CHECKED: WeakSet[nn.Module] = WeakSet()
"""Models whose logits were once found to be what their config says."""


class HeadRequest(NamedTuple):
    """What is asked of the head.

    Attributes:
        keep: labels that are scored, the last ones of each sequence.
        temperature: divisor of the logits.
        entropy: give the entropies as well.
        entropy_gradient: let gradients flow through the entropies.

    """

    keep: int
    temperature: float
    entropy: bool
    entropy_gradient: bool


def causal_model(model: nn.Module) -> Any:
    """Return the transformers model inside of a PEFT model, or the model itself."""
    base: Any = getattr(model, "get_base_model", None)
    return model if base is None else base()


def score_labels(
    model: nn.Module, causal: Any, inputs: Mapping[str, Any], request: HeadRequest
) -> tuple[TokenScores, Any]:
    """Call ``model(**inputs)`` and return the scores of its labels and the model's own outputs.

    Args:
        model: what is called, wrappers included.
        causal: the transformers model inside of it, see :func:`causal_model`.
        inputs: ``input_ids`` and ``attention_mask`` ``(B, L)``, and whatever else the model takes.
        request: what to compute.

    Returns:
        Scores ``(B, T')``, where the column ``-1 - t`` scores the label at position ``-t`` (the
        last one has none), 0 where there is no label to score.

    Raises:
        TypeError: the head is of a kind that cannot be scored.
        ValueError: the model does to its logits what its config does not say.

    """
    labels = _next_tokens(inputs["input_ids"], inputs["attention_mask"], request.keep)
    with _scoring(causal, labels, request) as scored:
        outputs = model(**inputs)
    if not scored:
        raise TypeError(f"{type(causal).__name__} did not call its output embedding")
    columns = scored[-1].unbind(-1)
    return TokenScores(columns[0], columns[1] if request.entropy else None), outputs


def _next_tokens(ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
    """Return ``(B, L)`` the token after each position, -100 where it is not one to be scored."""
    labels = ids.masked_fill(attention_mask == 0, -100)
    labels[:, :-keep] = -100
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), -100)], 1)


@contextmanager
def _scoring(causal: Any, labels: Tensor, request: HeadRequest) -> Iterator[list[Tensor]]:
    """Let the head of ``causal`` score ``labels``; what its forward returns is appended to the list."""
    head = multiplying_module(causal.get_output_embeddings(), causal)
    options = logit_options(causal)
    scored: list[Tensor] = []
    forward = causal.forward

    def score(hidden: Tensor) -> Tensor:
        return _score_hidden(head, hidden, labels, request, options)

    def keep_output(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        scored.append(output)

    def with_scores(*args: Any, **kwargs: Any) -> Any:
        scored.clear()
        outputs = forward(*args, **kwargs)
        if len(scored) != 1:
            raise TypeError(
                f"{type(causal).__name__} called its output embedding {len(scored)} times in one "
                "forward pass; one was expected"
            )
        _check_logits(causal, scored[0], outputs.logits, options)
        outputs.logits = scored[0]
        return outputs

    # The hook comes after those that FSDP and DeepSpeed put on the head: it sees what they return.
    hook = head.register_forward_hook(keep_output)
    try:
        with _instance_forward(head, score), _instance_forward(causal, with_scores):
            yield scored
    finally:
        hook.remove()


@contextmanager
def _instance_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give one module another ``forward`` while the context lasts."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@torch.no_grad()
def _check_logits(causal: nn.Module, scores: Tensor, logits: Tensor, options: LogitOptions) -> None:
    """Hold what the model made of the head's output against what its config says, once a model."""
    if causal in _CHECKED or not scores.numel():
        return
    expected = options.apply(scores.to(torch.float32))
    error = (logits.to(torch.float32) - expected).abs()
    allowed = 4 * torch.finfo(logits.dtype).eps * expected.abs().clamp(min=1.0)
    if not bool((error <= allowed).all()):
        raise ValueError(
            f"{type(causal).__name__} changes its logits in a way that its config does not say "
            f"(scale {options.logit_scale}, softcap {options.softcap} expected): it cannot be "
            "scored by patch_trl(); train it without"
        )
    _CHECKED.add(causal)


def _score_hidden(
    head: nn.Module,
    hidden: Tensor,
    labels: Tensor,
    request: HeadRequest,
    options: LogitOptions,
) -> Tensor:
    """Score ``hidden`` ``(B, T', H)`` under ``head``; returns ``(B, T', C)``."""
    batch, length = hidden.shape[:2]
    # Virtual tokens of prompt learning stand before the sequence and have no label.
    missing = max(length - labels.shape[1], 0)
    aligned = nn.functional.pad(labels, (missing, 0), value=-100)[:, -length:]
    rows = hidden.flatten(0, 1)
    terms = head_terms(head, rows)
    found = linear_logprob(
        _as_autocast(rows),
        _as_autocast(terms.weight),
        aligned.to(hidden.device).reshape(-1),
        low_rank=_low_rank_as_autocast(terms.low_rank),
        bias=terms.bias,
        temperature=request.temperature,
        softcap=options.softcap,
        logit_scale=options.logit_scale,
        entropy=request.entropy,
    )
    columns = [found.logps]
    if found.entropies is not None:
        columns.append(found.entropies if request.entropy_gradient else found.entropies.detach())
    # Not a view of anything: FSDP2 hangs its hook on this tensor.
    return torch.stack([column.view(batch, length) for column in columns], -1)


def _low_rank_as_autocast(part: LowRank | None) -> LowRank | None:
    return None if part is None else LowRank(part.rows, _as_autocast(part.up))


def _as_autocast(values: Tensor) -> Tensor:
    """Cast as autocast would cast the operand of a linear layer."""
    kind = values.device.type
    if torch.is_autocast_enabled(kind) and values.dtype != torch.float64:
        return values.to(torch.get_autocast_dtype(kind))
    return values
