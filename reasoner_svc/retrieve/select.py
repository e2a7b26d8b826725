"""Pure. The seam between a question and a retrieval strategy. A new strategy is one file with a `Selector`.

Strategies decide which blocks a question sees beside the sink and the recent window; they read no bytes of
blocks, wait for nothing and know neither tiers nor views. Shapes: K selected blocks, F key/value heads x head
dimension, E dimension of embeddings, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from reasoner_svc.retrieve.index_view import IndexView
from tandem.core.errors import InvalidInput


class Reads(StrEnum):
    """What of a question a strategy needs."""

    NOTHING = "nothing"
    """Same blocks for every question and layer: select once."""
    EXTERNAL = "external"
    """`Query.external`; same blocks in all layers: select once per question."""
    INTERNAL = "internal"
    """`Query.internal`: select in each layer, while the question is prefilled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question as one layer asks it."""

    layer: int = 0
    internal: Tensor | None = None
    """`query.layer_query` of this layer: float32 [F]."""
    external: Tensor | None = None
    """Embedding of the question's text, in the space of the blocks' embeddings: float32 [E]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be selected. All hold at once; `docs/retrieval.md` says in which order they act."""

    blocks: int
    """Most blocks (k); 0 selects nothing. More than there are is no error."""
    tokens: int = 0
    """Most tokens of all selected blocks together; 0: no such limit."""
    mass: float = 0.0
    """Adaptive k: stop once the selected have this share of the softmax over all scores; 0 or 1: off."""
    temperature: float = 1.0
    """Scores are divided by it before that softmax; has no effect without `mass`."""
    chunk: int = 1
    """Neighbouring blocks that are scored (by their average) and selected together (ReKV's b)."""

    def __post_init__(self) -> None:
        if self.blocks < 0 or self.tokens < 0 or self.chunk < 1:
            raise InvalidInput(f"limits must be blocks >= 0, tokens >= 0, chunk >= 1: {self}")
        if not 0.0 <= self.mass <= 1.0 or not 0.0 < self.temperature < float("inf"):
            raise InvalidInput(f"limits must be 0 <= mass <= 1 and temperature > 0: {self}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a strategy chose."""

    numbers: Tensor
    """Block numbers int64 [K], ascending, each once."""
    scores: Tensor
    """Finite float32 [K], in the order of `numbers`; larger is better, comparable within one selection."""
    reason: str
    """For people and logs: by what, and why so many."""

    def __len__(self) -> int:
        return len(self.numbers)

    @staticmethod
    def nothing(reason: str) -> Selection:
        """An empty selection."""
        return Selection(torch.empty(0, dtype=torch.int64), torch.empty(0), reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A block as a strategy meets it when it is published."""

    number: int
    start_us: int
    """Stream time at which it begins, in microseconds."""
    tokens: int
    descriptor: Tensor = field(repr=False)
    """float32 vector that blocks are compared by; see `descriptor_of`."""


def descriptor_of(representatives_LF: Tensor) -> Tensor:  # noqa: N803
    """What blocks are compared by without a question: the middle layer's mean keys.

    The first layers' keys hardly depend on what is seen, the last ones' on what comes next. Not the
    embedding, which some blocks of a stream may lack.
    """
    return representatives_LF[len(representatives_LF) // 2].float()


class Selector(Protocol):
    """A retrieval strategy for one stream."""

    name: str
    reads: Reads

    def observe(self, seen: Seen) -> None:
        """A block was published; called once for each, in the order of numbers, by the index's owner."""
        ...

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """Choose among the blocks in `memory`, and no others; any thread.

        Deterministic. Raises InvalidInput when the query lacks what the strategy `reads`.
        """
        ...


class Stateless:
    """For strategies that need no more than the index."""

    def observe(self, seen: Seen) -> None:
        """Nothing to remember."""
