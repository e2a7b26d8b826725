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
        return _flash(query_HND, key_HMD, value_HMD, scale, causal=False)

    def square(self, query_HND: Tensor, key_HND: Tensor, value_HND: Tensor, scale: float) -> Partial:
        """Row n sees keys up to n."""
        return _flash(query_HND, key_HND, value_HND, scale, causal=True)


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Partial:
    output, lse = FLASH(query[None], key[None], value[None], 0.0, causal, scale=scale)
    return output[0], lse[0]
