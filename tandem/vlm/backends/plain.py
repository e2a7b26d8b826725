# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: the two products in plain torch; for devices without a kernel that returns the log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.vlm.backends.base import Partial


class Plain:
    """Any device, any dtype."""

    name = "plain"

    def rectangle(self, query_HND: Tensor, key_HMD: Tensor, value_HMD: Tensor, scale: float) -> Partial:
        """Every row sees every key."""
        return plain(query_HND, key_HMD, value_HMD, scale, causal=False)

    def squares(self, query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, scale: float) -> Partial:
        """Row n of each batch sees that batch's keys up to n."""
        return plain(query_BHND, key_BHND, value_BHND, scale, causal=True)


def plain(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Partial:
    """Output and log-sum-exp of one product: any device, dtype and head dimension."""
    scores = (query.float() @ key.float().transpose(-1, -2)) * scale
    if causal:
        rows = scores.shape[-1]
        above = torch.ones(rows, rows, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, -torch.inf)
    lse = scores.logsumexp(-1)
    output = (scores - lse[..., None]).exp() @ value.float()
    return output.to(query.dtype), lse
