# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: torch's flash kernel for CPUs: returns the log-sum-exp, reads strided keys in place."""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.vlm.backends.base import Partial

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 (the lse is public only here)


class CpuFlash:
    """`aten::_scaled_dot_product_flash_attention_for_cpu`. Its causal flag aligns top-left: squares only."""

    name = "cpu"

    def rectangle(self, query_HND: Tensor, key_HMD: Tensor, value_HMD: Tensor, scale: float) -> Partial:
        """Every row sees every key."""
        output, lse = _flash(query_HND[None], key_HMD[None], value_HMD[None], scale, causal=False)
        return output[0], lse[0]

    def squares(self, query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, scale: float) -> Partial:
        """Row n of each batch sees that batch's keys up to n."""
        return _flash(query_BHND, key_BHND, value_BHND, scale, causal=True)


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Partial:
    output, lse = FLASH(query, key, value, 0.0, causal, scale=scale)
    return output, lse
