"""Tensor ring: rotary angles per dimension and axis, read off the model's own rotary module.

Knows no family: which axis feeds which frequency is found by probing, so both M-RoPE section layouts (Qwen2-VL's
chunks, Qwen3-VL's interleaving) and plain RoPE come out of the same code. Tables are built in float64: float32
angles cost 1e-3 in raw scores at position 5000. Shapes: N tokens, F = D / 2 frequencies, A axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rope:
    """Angles of one model: ``angle[n, f] = positions[axis(f), n] * inv_freq[f]``."""

    inv_freq_AF: Tensor
    """float64 [3, F]: the frequency in the row of the axis that feeds it, 0 elsewhere."""
    scaling: float
    """`attention_scaling` of the rotary module, applied to cos and sin."""

    @staticmethod
    def read_off(rotary: torch.nn.Module) -> Rope:
        """Probe a transformers rotary module. Raises Incompatible for what cannot be represented."""
        raise NotImplementedError

    def tables(self, positions_3N: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(cos, signed sin) float32 [..., N, D] for positions int64 [..., 3, N], on `device`."""
        raise NotImplementedError

    def rotate(self, x: Tensor, positions_3N: Tensor) -> Tensor:
        """Rotate x [..., N, D] to positions int64 [3, N]."""
        raise NotImplementedError
