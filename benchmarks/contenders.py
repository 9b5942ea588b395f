"""The loss that every contender computes, and the contenders: fused heads of other projects."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CLIP = 0.2

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """A micro-batch of ``B`` completions of at most ``T`` tokens.

    ``ids``, ``mask`` and ``old`` are ``[B, T]``, ``advantages`` ``[B]``.
    """

    ids: Tensor
    mask: Tensor
    advantages: Tensor
    old: Tensor

    def terms(self, logps: Tensor, rows: Tensor) -> Tensor:
        """Clipped surrogate of some tokens, over the number of valid tokens (``bnpo``)."""
        ratio = (logps - self.old.reshape(-1)[rows].to(logps.dtype)).exp()
        gain = self.advantages[:, None].expand(self.ids.shape).reshape(-1)[rows].to(logps.dtype)
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        return -torch.minimum(ratio * gain, clipped * gain) / self.mask.sum()

    def loss(self, logps: Tensor) -> Tensor:
        """Sum of the terms of valid tokens; ``logps`` is ``[B, T]``."""
        rows = self.mask.reshape(-1).nonzero()[:, 0]
        return self.terms(logps.reshape(-1)[rows], rows).sum()


def ours(batch: Batch) -> Loss:
    """One sweep; padding and tokens without an advantage are not scored."""
    from grpoenv_kernels import linear_objective

    counts = batch.mask.bool() & (batch.advantages[:, None] != 0)
    targets = batch.ids.masked_fill(~counts, -100).reshape(-1)
    return lambda hidden, weight: (
        linear_objective(hidden.flatten(0, 1), weight, targets, batch.terms).loss
    )


def plain(batch: Batch) -> Loss:
    """Full logits and autograd."""

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        logp = torch.log_softmax((hidden @ weight.t()).float(), -1)
        return batch.loss(logp.gather(-1, batch.ids[..., None])[..., 0])

    return loss


def trl(batch: Batch) -> Loss:
    """The fused head that trl's trainers use since 1.15."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction, _use_triton
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    keep = batch.mask.bool()
    if not _use_triton(batch.ids.device):  # elsewhere its trainer scores padding as well
        keep = torch.ones_like(keep)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        chunk, outputs = _CHUNKED_LOGPROB_CHUNK_SIZE, ("log_probs", "entropy")
        found = ChunkedLogProbFunction.apply(
            hidden[keep], weight, None, batch.ids[keep], 1.0, chunk, None, 1.0, outputs
        )
        return batch.loss(found[0].new_zeros(keep.shape).masked_scatter(keep, found[0]))

    return loss


def unsloth(batch: Batch) -> Loss:
    """The fused head and loss that unsloth's GRPO trainer uses."""
    # As unsloth's own import sets it; without a GPU the zoo is told so.
    os.environ.setdefault("UNSLOTH_IS_PRESENT", "1")
    if not batch.ids.is_cuda:
        os.environ.setdefault("UNSLOTH_ZOO_DISABLE_GPU_INIT", "1")
    from unsloth_zoo import rl_replacements as replacements

    options: dict[str, Any] = {
        "loss_type": "bnpo",
        "epsilon_low": CLIP,
        "epsilon_high": CLIP,
        "current_gradient_accumulation_steps": 1,
        "num_processes": 1,
    }

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        chunks = len(batch.ids) * max(4, batch.ids.shape[1] // 4096)  # as its trainer has it
        logps = replacements.grpo_chunked_hidden_states_logprobs(
            hidden, weight, batch.ids, chunks, temperature=1.0
        )
        return replacements.UnslothEfficientGRPO.apply(
            logps, batch.old, None, None, weight, batch.ids, batch.mask.float(),
            batch.advantages, 0.0, None, 1, dict(options), None,
        )[0]  # fmt: skip

    return loss


def liger(batch: Batch) -> Loss:
    """Liger's chunked GRPO loss."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    run = LigerFusedLinearGRPOLoss(
        beta=0.0,
        use_ref_model=False,
        epsilon_low=CLIP,
        epsilon_high=CLIP,
        loss_type="bnpo",
        temperature=1.0,
    )
    return lambda hidden, weight: run(
        hidden, weight, batch.ids, batch.mask, batch.advantages, old_per_token_logps=batch.old
    )[0]


def cce(batch: Batch) -> Loss:
    """Cut cross-entropy: its kernels on a GPU, its compiled fallback elsewhere."""
    from cut_cross_entropy import linear_cross_entropy

    targets = batch.ids.masked_fill(batch.mask == 0, -100)
    kind = "cce" if batch.ids.is_cuda else "torch_compile"
    return lambda hidden, weight: batch.loss(
        -linear_cross_entropy(hidden, weight, targets, reduction="none", impl=kind).float()
    )


CONTENDERS: dict[str, Callable[[Batch], Loss]] = {
    "ours": ours,
    "plain": plain,
    "trl": trl,
    "unsloth_zoo": unsloth,
    "liger": liger,
    "cce": cce,
}
