"""Tensor ring: what one reader sees, as an ordered list of segments with a base position each.

Knows no streams and no blocks. A query at position q meets a segment whose origin stands at base b for this
reader by being turned to q - b; partial results are merged by log-sum-exp. So the same bytes serve any
number of readers at any places, and nothing is copied (Hogwild! Inference, arXiv 2504.06261, section 3;
ReKV, arXiv 2503.00540).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.segment import Segment

Base = Tensor | tuple[int, int, int]
HeadRuns = tuple[tuple[tuple[int, int], ...], ...]
"""Per layer, half-open runs of key/value heads; a layer may have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One segment as one reader sees it.

    ::

        token numbers   start ........ first_visible[i] ................ end
        query i sees                   [--------------------------------)
    """

    segment: Segment | LayeredSegment
    """A `LayeredSegment` is seen as a whole by every query, so it takes no bounds; it cannot be a tail."""
    base: Base = (0, 0, 0)
    """Position of the segment's origin in the reader's frame: int64 [3], or [3, T] when it differs per query.

    Query i is turned to ``positions[:, i] - base[:, i]`` before it meets this segment.
    """
    first_visible: Tensor | None = None
    """Per query the number of the first token it sees: int64 [T]; None: all from ``segment.start``.

    Neighbouring queries with equal bounds are attended together: keep it constant over a frame's tokens.
    """
    end: int | None = None
    """Tokens from this number on are not seen; None: all that were appended when `forward` was called.

    May reach into tokens that the same `forward_many` call writes (workers that see each other's newest
    token). Must be None for a view's tail, where query i sees new tokens up to and including its own.
    """
    heads: HeadRuns | None = None
    """Key/value heads whose queries see this part; None: all. A tail is seen by all heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one reader sees: parts read only, and the tail its new tokens are written to.

    All of `parts` is visible to every query (within `Part.first_visible` and `Part.end`). The tail is causal
    and bottom-right aligned: its earlier tokens are visible to all queries, new ones to themselves and later.
    The order of parts does not change results; positions do.
    """

    parts: tuple[Part, ...] = ()
    tail: Part
    before_layer: Callable[[int, Tensor], None] | None = None
    """Called per layer with (layer, raw queries [heads, T, D]) before anything is read.

    For retrieval inside the layer: it may write that layer of a private `LayeredSegment`, or overwrite that
    layer's slice of a private `Segment`.
    """
    after_layer: Callable[[int, Tensor, Tensor, float], None] | None = None
    """Called per layer with (layer, raw queries [heads, T, D], log-sum-exp [T, heads], scale), after it.

    For policies that need to know what was attended to: with the log-sum-exp over all that a query saw, the
    probability of any key is one product away, and nobody has to write probabilities down. Must not raise.
    """
