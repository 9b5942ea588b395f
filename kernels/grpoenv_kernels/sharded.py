"""Parameters that FSDP2 shards over processes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["gather_sharded"]


def gather_sharded(parameter: Tensor) -> Tensor:
    """Return a parameter that FSDP2 or tensor parallelism shards (``DTensor``) as one tensor.

    Its gradient is averaged over the processes, as FSDP2 does, and comes back in shards. Other
    tensors are returned as they are.
    """
    # Only who has imported this module can have made such a tensor.
    module = sys.modules.get("torch.distributed.tensor")
    if module is None or not isinstance(parameter, module.DTensor):
        return parameter
    mesh = parameter.device_mesh
    whole: Tensor = parameter.full_tensor(grad_placements=[module.Partial()] * mesh.ndim)
    return _ScaledGradient.apply(whole, 1 / mesh.size())  # type: ignore[no-any-return, no-untyped-call]


class _ScaledGradient(torch.autograd.Function):
    # An average over processes that gloo has as well.

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None
