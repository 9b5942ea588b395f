"""Parameters that are spread over processes: by FSDP2 (``DTensor``), or by ZeRO-3 of deepspeed."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["gather_sharded"]


def gather_sharded(parameter: Tensor) -> Tensor:
    """Return a parameter that is spread over processes as one tensor; others as they are.

    Its gradient is averaged over the processes and goes back in parts, as FSDP2 or ZeRO-3 does it
    for layers of its own. Every process of the group must call this, and differentiate.

    What ZeRO-3 has gathered already, for the layer it belongs to, is left to its hooks.
    """
    # Only who has imported one of these modules can have made such a tensor.
    tensor = sys.modules.get("torch.distributed.tensor")
    if tensor is not None and isinstance(parameter, tensor.DTensor):
        return _gather_tensor(parameter, tensor)
    zero = getattr(sys.modules.get("deepspeed"), "zero", None)
    if zero is None or not _is_partitioned(parameter, zero):
        return parameter
    # Within the context for its shape: autograd notes that of the input.
    with zero.GatheredParameters([parameter]):
        return _Gathered.apply(parameter, zero)  # type: ignore[no-any-return, no-untyped-call]


def _gather_tensor(parameter: Any, module: Any) -> Tensor:
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


def _is_partitioned(parameter: Tensor, zero: Any) -> bool:
    available = zero.ZeroParamStatus.AVAILABLE
    return bool(getattr(parameter, "ds_status", available) != available)


class _Gathered(torch.autograd.Function):
    """A copy of a gathered parameter, which outlives the gathering.

    ZeRO-3 takes the gradient, reduces and partitions it when autograd accumulates it, and autograd
    holds it against the parameter's shape then: so the parameter is gathered until that is over.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, zero: Any) -> Tensor:
        ctx.parameter, ctx.zero = parameter, zero
        return parameter.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if _is_partitioned(ctx.parameter, ctx.zero):
            context = ctx.zero.GatheredParameters([ctx.parameter])
            context.__enter__()
            leave = partial(context.__exit__, None, None, None)
            torch.autograd.Variable._execution_engine.queue_callback(leave)
        return grad, None
