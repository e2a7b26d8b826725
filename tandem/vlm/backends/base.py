# ruff: noqa: N803 (shape suffixes)
"""What an attention backend does. All of them compute the same function; `reference` says which."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from tandem.vlm.plan import Plan

Partial = tuple[Tensor, Tensor]
"""Output [..., N, D] and float32 log-sum-exp [..., N] of one read."""


class Backend(Protocol):
    """Reads a plan's views for one layer. Stateless and thread-safe."""

    name: str

    def attend(
        self, plan: Plan, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        """Attention output [T, query heads, D].

        `query_THD` is raw; `key_THD` is rotated (relative to the tail) and already written to the tail. When
        ``plan.wants_lse``, ``plan.lse_TQ`` is set.
        """
        ...


class Kernel(Protocol):
    """The two maskless products that `merging.Merging` builds attention from."""

    name: str

    def rectangle(self, query_HND: Tensor, key_HMD: Tensor, value_HMD: Tensor, scale: float) -> Partial:
        """Every row sees every key."""
        ...

    def squares(self, query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, scale: float) -> Partial:
        """Row n of each batch sees that batch's keys up to n."""
        ...
