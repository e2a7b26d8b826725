# ruff: noqa: N803, N806, N815 (shape suffixes)
"""Tensor ring: rotary angles per dimension and axis, read off the model's own rotary module.

Knows no family: which axis feeds which frequency is found by probing, so both M-RoPE section layouts
(Qwen2-VL's chunks, Qwen3-VL's interleaving) and plain RoPE come out of the same code. Tables are built in
float64: float32 angles cost 1e-3 in raw scores at position 5000. Shapes: N tokens, F = D / 2 frequencies, A
= 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.core.errors import Incompatible

AXES = 3
"""Time, height, width. Models with plain RoPE read the first."""

LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Scalings whose frequencies change with the sequence: one table per model cannot hold them."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Angles of one model: ``angle[n, f] = positions[axis(f), n] * inv_freq[f]``."""

    inv_freq_AF: Tensor
    """float64 [3, F]: the frequency in the row of the axis that feeds it, 0 elsewhere."""
    scaling: float
    """`attention_scaling` of the rotary module, applied to cos and sin."""

    @staticmethod
    def read_off(rotary: Any) -> Rope:
        """Probe a transformers rotary module. Raises Incompatible for what cannot be represented."""
        kind = str(getattr(rotary, "rope_type", "default"))
        if kind in LENGTH_DEPENDENT:
            raise Incompatible(f"rope type {kind!r} changes with the length of the sequence; not supported")
        inv_freq_F: Tensor = rotary.inv_freq.detach().double().cpu()
        feeds_AF = torch.stack([_moved_by(rotary, axis) for axis in range(AXES)])
        if feeds_AF.shape[1] != inv_freq_F.shape[0] or not bool((feeds_AF.sum(0) == 1).all()):
            raise Incompatible(f"{type(rotary).__name__}: not every frequency is fed by exactly one axis")
        return Rope(feeds_AF * inv_freq_F, float(rotary.attention_scaling))

    def tables(self, positions_3N: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(cos, signed sin) float32 [..., N, D] for positions int64 [..., 3, N], on `device`.

        The sine carries the sign of rotate-half: `turn` needs no negation.
        """
        positions = positions_3N.to(device=device, dtype=torch.float64)
        angles = positions.transpose(-1, -2) @ self.inv_freq_AF.to(device)
        cos, sin = angles.cos().float(), angles.sin().float()
        if self.scaling != 1.0:
            cos, sin = cos * self.scaling, sin * self.scaling
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def rotate(self, x: Tensor, positions_3N: Tensor) -> Tensor:
        """Rotate x [..., N, D] to positions int64 [3, N]."""
        return turn(x, *self.tables(positions_3N, x.device))


def turn(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate the halves of the last dimension; computed in float32, returned in x's dtype."""
    half = x.shape[-1] // 2
    wide = x.float()
    swapped = torch.cat((wide[..., half:], wide[..., :half]), -1)
    return (wide * cos).addcmul_(swapped, signed_sin).to(x.dtype)


def _moved_by(rotary: Any, axis: int) -> Tensor:
    """bool [F]: frequencies whose angle moves when only `axis` does."""
    device = rotary.inv_freq.device
    positions = torch.zeros(AXES, 1, 1, dtype=torch.int64, device=device)
    positions[axis] = 1
    sample = torch.zeros(1, 1, 1, dtype=torch.float32, device=device)
    _, sin = rotary(sample, positions)
    sin_D = _in_sections(sin, rotary) if sin.ndim == 4 else sin[0, 0]
    first, second = (sin_D != 0).cpu().chunk(2)
    if not torch.equal(first, second):
        raise Incompatible(f"{type(rotary).__name__} does not rotate halves (rotate_half layout expected)")
    return first


def _in_sections(table_A11D: Tensor, rotary: Any) -> Tensor:
    """Older transformers pick the axis in the attention layer, by `mrope_section` chunks."""
    config = rotary.config
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    sections = parameters.get("mrope_section")
    if sections is None:
        raise Incompatible(f"{type(rotary).__name__} gives angles per axis but names no mrope_section")
    chunks = torch.split(table_A11D[:, 0, 0], list(sections) * 2, dim=-1)
    return torch.cat([chunk[i % AXES] for i, chunk in enumerate(chunks)], dim=-1)


class Identity(torch.nn.Module):
    """Stands in for a model's rotary module and turns nothing: attention gets raw queries and keys."""

    def __init__(self, rotary: Any, dtype: torch.dtype) -> None:
        super().__init__()
        device = rotary.inv_freq.device
        positions = torch.zeros(AXES, 1, 1, dtype=torch.int64, device=device)
        cos, sin = rotary(torch.zeros(1, 1, 1, dtype=dtype, device=device), positions)
        self.register_buffer("cos", torch.ones_like(cos), persistent=False)
        self.register_buffer("sin", torch.zeros_like(sin), persistent=False)

    def forward(self, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """cos 1, sin 0, of the shape that the model's layers expect for a broadcast."""
        return self.cos, self.sin  # type: ignore[return-value]
