# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: the two products in plain torch; for devices without a kernel that returns the log-sum-exp."""

from __future__ import annotations

from torch import Tensor

from tandem.vlm.backends.base import Partial
from tandem.vlm.backends.cuda import plain


class Plain:
    """Any device, any dtype."""

    name = "plain"

    def rectangle(self, query_HND: Tensor, key_HMD: Tensor, value_HMD: Tensor, scale: float) -> Partial:
        """Every row sees every key."""
        return plain(query_HND, key_HMD, value_HMD, scale, causal=False)

    def squares(self, query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, scale: float) -> Partial:
        """Row n of each batch sees that batch's keys up to n."""
        return plain(query_BHND, key_BHND, value_BHND, scale, causal=True)
