# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: torch's own CUDA kernels that return the log-sum-exp; no dependency beyond torch.

Half precision goes to FlashAttention, float32 to the memory-efficient kernel (CUTLASS), whose log-sum-exp
is padded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.vlm.backends.base import Partial
from tandem.vlm.backends.plain import plain

# Only these return the log-sum-exp; the public function does not.
FLASH = torch.ops.aten._scaled_dot_product_flash_attention  # noqa: SLF001
EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001
FLASH_DTYPES = frozenset({torch.float16, torch.bfloat16})
ALIGNMENT_ELEMENTS = 8
"""Both kernels want head dimensions in multiples of this; narrower or odd ones go through plain torch."""
MAX_HEAD_DIM = 256


class CudaFlash:
    """Flash, memory-efficient or plain products, by dtype and head dimension."""

    name = "cuda"

    def rectangle(self, query_HND: Tensor, key_HMD: Tensor, value_HMD: Tensor, scale: float) -> Partial:
        """Every row sees every key."""
        output, lse = _attend(query_HND[None], key_HMD[None], value_HMD[None], scale, causal=False)
        return output[0], lse[0]

    def squares(self, query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, scale: float) -> Partial:
        """Row n of each batch sees that batch's keys up to n."""
        return _attend(query_BHND, key_BHND, value_BHND, scale, causal=True)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Partial:
    head_dim = query.shape[-1]
    if head_dim % ALIGNMENT_ELEMENTS or head_dim > MAX_HEAD_DIM:
        return plain(query, key, value, scale, causal=causal)
    if query.dtype in FLASH_DTYPES:
        output, lse, *_ = FLASH(query, key, value, 0.0, causal, False, scale=scale)
    else:
        output, lse, *_ = EFFICIENT(query, key, value, None, True, 0.0, causal, scale=scale)
    return output, lse[..., : query.shape[-2]]
