# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: the one attention function. Transformers' text layers call it with raw queries and keys.

It owns positions: it keeps raw keys and values where they are captured, rotates and writes new keys to the
tails, and lets a backend read the views. All state of a call travels in its keyword arguments, so threads
do not meet. A model's own masks and `sliding_window` do not reach it. Shapes: T new tokens, Q query heads,
H key/value heads, D head dimension; B batch, always 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tandem.vlm.backends.base import Backend
from tandem.vlm.plan import Plan
from tandem.vlm.rope import turn

ATTENTION_NAME = "tandem_views"
"""Under which transformers finds the function."""


@dataclass(frozen=True, slots=True)
class Call:
    """What travels through transformers' layers in the keyword argument `tandem`."""

    plan: Plan
    backend: Backend


def attend_views(
    module: nn.Module,
    query_BQTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float,
    tandem: Call,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer over the views of `tandem.plan`, called as an `AttentionInterface` is."""
    assert attention_mask is None, "a mask was built for attention that makes its own"
    plan, layer = tandem.plan, int(module.layer_idx)  # type: ignore[arg-type]
    if plan.captured is not None:
        plan.captured.append((key_BHTD[0], value_BHTD[0]))
    query, key, value = (x[0].transpose(0, 1) for x in (query_BQTD, key_BHTD, value_BHTD))
    key = turn(key, plan.key_cos_T1D, plan.key_sin_T1D)
    for write in plan.writes:
        span = slice(write.token, write.token + write.tokens)
        write.keys[layer].copy_(key[span].transpose(0, 1))
        write.values[layer].copy_(value[span].transpose(0, 1))
    for reader in plan.readers:
        if reader.view.before_layer is not None:
            own = slice(reader.token, reader.token + reader.tokens)
            reader.view.before_layer(layer, query_BQTD[0, :, own])
    output = tandem.backend.attend(plan, layer, query, key, value, scaling)
    if plan.wants_lse:
        _tell(plan, layer, query_BQTD[0], scaling)
    return output[None], None


def _tell(plan: Plan, layer: int, query_QTD: Tensor, scaling: float) -> None:
    """Who wants to know what was attended to is told of its own queries."""
    assert plan.lse_TQ is not None, "the backend kept no log-sum-exp"
    for reader in plan.readers:
        if reader.view.after_layer is not None:
            own = slice(reader.token, reader.token + reader.tokens)
            reader.view.after_layer(layer, query_QTD[:, own], plan.lse_TQ[own], scaling)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def register() -> None:
    """Make the function known to transformers; may be called again."""
    AttentionInterface.register(ATTENTION_NAME, attend_views)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)
