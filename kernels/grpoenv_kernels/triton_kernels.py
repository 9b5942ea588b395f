# mypy: ignore-errors
"""Triton kernels for a tile of logits; :mod:`grpoenv_kernels.triton_tile` launches them.

One program has one row and loops over the tile's columns, so sums are taken in a fixed order: the
same inputs give the same bits, and a grid has one axis, which may have 2 ** 31 - 1 programs. Offsets
are 64 bits wide. Every real number comes from a tensor: as arguments Python floats could arrive in
another precision than the tile's.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["fold", "gradient", "scale"]


@triton.jit
def _tanh(x):
    # libdevice is not there on the interpreter.
    shrunk = tl.exp(-2 * tl.abs(x))
    size = (1 - shrunk) / (1 + shrunk)
    return tl.where(x < 0, -size, size)


@triton.jit
def _tangent_and_logit(
    product,
    bias,
    inner,
    outer,
    at,
    live,
    FOLDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Slope of the cap and base-2 logit of some columns of one row."""
    logit = tl.load(product + at, mask=live, other=0)
    if not FOLDED:
        logit = logit * inner
    if HAS_BIAS:
        logit += inner * tl.load(bias + at, mask=live, other=0)
    tangent = tl.full(logit.shape, 1, logit.dtype)
    if HAS_CAP:
        capped = _tanh(logit)
        tangent = 1 - capped * capped
        logit = outer * capped
    return tangent, logit


@triton.jit
def fold(
    product,
    weights,
    bias,
    targets,
    inner_of,
    outer_of,
    reference_of,
    raised_of,
    total_of,
    moment_of,
    label_of,
    factor_of,
    width,
    start,
    product_stride,
    weights_stride,
    FOLDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    KEEP: tl.constexpr,
    LOWEST: tl.constexpr,
    SLACK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fold one row of a tile into its running sums; write its softmax weights if ``KEEP``."""
    row = tl.program_id(0).to(tl.int64)
    product += row * product_stride
    weights += row * weights_stride
    chosen = tl.load(targets + row) - start
    inner = tl.load(inner_of + row)
    outer = inner
    if HAS_CAP:
        outer = tl.load(outer_of + row)
    old = tl.load(reference_of + row)
    columns = tl.arange(0, BLOCK)

    peaks = tl.full([BLOCK], LOWEST, old.dtype)
    for first in range(0, width, BLOCK):
        at = first + columns
        live = (at < width) & (at != chosen)
        _, logit = _tangent_and_logit(
            product, bias, inner, outer, at, live, FOLDED, HAS_BIAS, HAS_CAP
        )
        peaks = tl.maximum(peaks, tl.where(live, logit, LOWEST))
    peak = tl.max(peaks, 0)
    reference = tl.where(peak > old + SLACK, tl.floor(peak), old)
    factor = tl.exp2(old - reference)

    totals = tl.zeros([BLOCK], old.dtype)
    moments = tl.zeros([BLOCK], old.dtype)
    labels = tl.zeros([BLOCK], old.dtype)
    for first in range(0, width, BLOCK):
        at = first + columns
        inside = at < width
        tangent, logit = _tangent_and_logit(
            product, bias, inner, outer, at, inside, FOLDED, HAS_BIAS, HAS_CAP
        )
        labels += tl.where(inside & (at == chosen), logit, 0)
        live = inside & (at != chosen)
        power = tl.where(live, logit - reference, LOWEST)
        share = tl.exp2(power)
        totals += share
        if ENTROPY:
            moments += share * tl.maximum(power, LOWEST)
        if KEEP:
            tl.store(weights + at, (share * tangent).to(weights.dtype.element_ty), mask=inside)

    total = tl.load(total_of + row)
    if ENTROPY:
        moment = factor * (tl.load(moment_of + row) + (old - reference) * total)
        tl.store(moment_of + row, moment + tl.sum(moments, 0))
    tl.store(total_of + row, factor * total + tl.sum(totals, 0))
    tl.store(raised_of + row, reference)
    tl.store(factor_of + row, factor)
    if (chosen >= 0) & (chosen < width):
        tl.store(label_of + row, tl.sum(labels, 0))


@triton.jit
def gradient(
    product,
    out,
    bias,
    targets,
    inner_of,
    outer_of,
    log_z_of,
    level_of,
    tilt_of,
    label_of,
    width,
    start,
    product_stride,
    out_stride,
    FOLDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    TILTED: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient by one row of a tile."""
    row = tl.program_id(0).to(tl.int64)
    product += row * product_stride
    out += row * out_stride
    chosen = tl.load(targets + row) - start
    inner = tl.load(inner_of + row)
    outer = inner
    if HAS_CAP:
        outer = tl.load(outer_of + row)
    log_z = tl.load(log_z_of + row)
    level = tl.load(level_of + row)
    label = tl.load(label_of + row)
    columns = tl.arange(0, BLOCK)
    for first in range(0, width, BLOCK):
        at = first + columns
        inside = at < width
        tangent, logit = _tangent_and_logit(
            product, bias, inner, outer, at, inside, FOLDED, HAS_BIAS, HAS_CAP
        )
        power = tl.where(at == chosen, 0, logit - log_z)
        grad = tl.exp2(power) * level
        if TILTED:
            tilt = tl.load(tilt_of + row)
            grad = tl.exp2(power) * (level + tilt * tl.maximum(power, LOWEST))
        grad = tl.where(at == chosen, label, grad) * tangent
        tl.store(out + at, grad.to(out.dtype.element_ty), mask=inside)


@triton.jit
def scale(values, factor_of, width, stride, BLOCK: tl.constexpr):
    """Multiply one row by its factor, unless that is 1."""
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(factor_of + row)
    if factor != 1:
        for first in range(0, width, BLOCK):
            at = first + tl.arange(0, BLOCK)
            place = values + row * stride + at
            value = tl.load(place, mask=at < width)
            tl.store(place, (value * factor).to(value.dtype), mask=at < width)
