"""What a transformers model multiplies its last hidden states with, and what follows.

Shape letters: ``N`` tokens, ``H`` hidden size, ``V`` vocabulary, ``r`` rank of the adapters.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from grpoenv_kernels import LowRank
from grpoenv_kernels.sharded import gather_sharded

__all__ = ["HeadTerms", "LogitOptions", "head_terms", "logit_options", "multiplying_module"]


class HeadTerms(NamedTuple):
    """A head's logits are ``hidden @ weight.T + bias``, and with adapters their low-rank part.

    Attributes:
        weight: ``[V, H]``.
        bias: ``[V]`` or ``None``.
        low_rank: of the hidden rows at hand, or ``None``.

    """

    weight: Tensor
    bias: Tensor | None
    low_rank: LowRank | None = None


class LogitOptions(NamedTuple):
    """What a model does to its logits: ``f(x) = cap * tanh(scale * x / cap)``, without a cap ``scale * x``."""

    softcap: float | None
    logit_scale: float

    def apply(self, logits: Tensor) -> Tensor:
        """Return ``f(logits)``."""
        logits = logits * self.logit_scale
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


def logit_options(causal: Any) -> LogitOptions:
    """Read the scale and the softcap of the logits from a transformers config.

    The names: ``final_logit_softcapping`` (Gemma), ``logit_scale`` (Cohere), ``output_multiplier``
    (Muse), ``lm_head_multiplier`` (Falcon-H1); ``logits_scaling`` divides (Granite, MiniCPM3) but
    for HyperCLOVA X, which multiplies.
    """
    config = causal.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            scale = getattr(config, name)
            break
    else:
        divisor = getattr(config, "logits_scaling", None)
        if divisor is not None:
            scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return LogitOptions(getattr(config, "final_logit_softcapping", None) or None, scale)


def multiplying_module(head: Any, causal: nn.Module) -> nn.Module:
    """Return the module that multiplies: ``head``, or what PEFT put in its place and uses now.

    Raises:
        TypeError: it is neither a linear layer nor a LoRA of one.

    """
    peft = sys.modules.get("peft.utils.other")
    while peft is not None and isinstance(head, peft.ModulesToSaveWrapper):
        off = head.disable_adapters or not head.active_adapters
        head = head.original_module if off else head.modules_to_save[head.active_adapters[0]]
    linear = head.base_layer if _is_lora(head) else head
    if isinstance(linear, nn.Linear) and linear.weight.is_floating_point():
        return head  # type: ignore[no-any-return]
    raise TypeError(
        f"the output embedding of {type(causal).__name__} is a {type(linear).__name__}; a linear "
        "layer with floating-point weights or a LoRA of one was expected: train this model without "
        "patch_trl()"
    )


def _is_lora(head: Any) -> bool:
    lora = sys.modules.get("peft.tuners.lora.layer")
    return lora is not None and isinstance(head, lora.LoraLayer)


def head_terms(head: nn.Module, hidden: Tensor) -> HeadTerms:
    """Return what ``head`` multiplies ``hidden`` ``[N, H]`` with.

    LoRA's dropout acts on the adapters' part alone, as in PEFT. The merged weight is not formed.

    Raises:
        TypeError: an adapter of another kind than plain LoRA (DoRA, for one).

    """
    if not _is_lora(head):
        return _linear_terms(head)
    lora: Any = head
    if lora.disable_adapters and lora.merged:
        lora.unmerge()
    terms = _linear_terms(lora.get_base_layer())
    if lora.disable_adapters or lora.merged:
        return terms
    for name in lora.active_adapters:
        if name in lora.lora_A:
            terms = _with_adapter(terms, lora, name, hidden)
    return terms


def _linear_terms(linear: Any) -> HeadTerms:
    # Whole, where FSDP2 or ZeRO-3 spreads them: what was cast or added before would not be.
    bias = None if linear.bias is None else gather_sharded(linear.bias)
    return HeadTerms(gather_sharded(linear.weight), bias)


def _with_adapter(terms: HeadTerms, lora: Any, name: str, hidden: Tensor) -> HeadTerms:
    """Add one adapter: ``scaling * B A dropout(h)``."""
    if name in getattr(lora, "lora_variant", {}) or getattr(lora, "use_dora", {}).get(name):
        raise TypeError(
            f"adapter {name!r} on the output embedding is not plain LoRA (DoRA or another variant): "
            "leave the head out of its target_modules, or train without patch_trl()"
        )
    down, up = lora.lora_A[name], lora.lora_B[name]
    rows = down(lora.lora_dropout[name](hidden.to(down.weight.dtype))) * lora.scaling[name]
    added, bias = _linear_terms(up), terms.bias
    weight = added.weight.to(terms.weight.dtype)
    if terms.low_rank is not None:
        rows = torch.cat([terms.low_rank.rows, rows], 1)
        weight = torch.cat([terms.low_rank.up, weight], 1)
    if added.bias is not None:
        bias = added.bias if bias is None else bias + added.bias
    return HeadTerms(terms.weight, bias, LowRank(rows, weight))
