# ruff: noqa: N803, N806 (shape suffixes)
"""Tensor ring: Pillow's bicubic resize, bit for bit, in torch integers.

Pillow resizes 8-bit pictures separably, the width first, with weights in fixed point and rounding to 8 bits
after each pass (`ImagingResampleHorizontal_8bpc` in Pillow's Resample.c). Integers are the same on every
device. Shapes: N pictures, C channels, H height, W width, K taps of the filter.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

PRECISION_BITS = 32 - 8 - 2
"""Pillow's fixed point: what 8 bits of pixel, 2 of overshoot leave free in 32."""
SUPPORT = 2.0
A = -0.5


def pillow_bicubic(pictures_NCHW: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 pictures as BICUBIC of Pillow 13 does."""
    old_height, old_width = pictures_NCHW.shape[-2:]
    # Pillow's rule, new in 13: a height that shrinks more than twice as much as the width goes first.
    shrunk = old_height - height
    if shrunk > 0 and shrunk > 2 * (old_width - width):
        return _pass(_pass(pictures_NCHW, height, -2), width, -1)
    return _pass(_pass(pictures_NCHW, width, -1), height, -2)


def _pass(pictures: Tensor, size: int, dim: int) -> Tensor:
    if pictures.shape[dim] == size:
        return pictures
    taps_SK, weights_SK = (table.to(pictures.device) for table in _filter(pictures.shape[dim], size))
    # The resized side comes first, so that a tap gathers whole contiguous rows.
    rows = pictures.movedim(dim, 0).int().contiguous()
    shape = [size] + [1] * (pictures.ndim - 1)
    total = rows.new_full((size, *rows.shape[1:]), 1 << (PRECISION_BITS - 1))
    for k in range(taps_SK.shape[1]):  # 32 bits suffice by the choice of PRECISION_BITS
        total.addcmul_(rows.index_select(0, taps_SK[:, k]), weights_SK[:, k].view(shape))
    return (total >> PRECISION_BITS).clamp_(0, 255).to(torch.uint8).movedim(0, dim)


@lru_cache(maxsize=64)
def _filter(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Tap indices int64 [new, K] and fixed-point weights int32 [new, K] (zero where there is no tap)."""
    scale = old / new
    stretch = max(scale, 1.0)
    reach = SUPPORT * stretch
    rows: list[list[float]] = []
    firsts: list[int] = []
    for at in range(new):
        centre = (at + 0.5) * scale
        first = max(0, int(centre - reach + 0.5))
        last = min(old, int(centre + reach + 0.5))
        weights = [_cubic((x - centre + 0.5) / stretch) for x in range(first, last)]
        total = sum(weights)
        rows.append([weight / total for weight in weights])
        firsts.append(first)
    width = max(map(len, rows))
    taps = torch.tensor(firsts)[:, None] + torch.arange(width)
    fixed = torch.tensor(
        [[_fixed(w) for w in row] + [0] * (width - len(row)) for row in rows], dtype=torch.int32
    )
    return taps.clamp_(max=old - 1), fixed


def _fixed(weight: float) -> int:
    # Rounds half away from zero, as C's truncation after adding half does.
    return int(math.copysign(0.5, weight) + weight * (1 << PRECISION_BITS))


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((A + 2.0) * x - (A + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * A
    return 0.0
