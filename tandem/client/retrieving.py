"""Pure: a wish for older video, for the wire."""

from __future__ import annotations

import math

from tandem.client.types import Retrieval
from tandem.wire.gen.tandem.v1 import types_pb2


def retrieval_to_proto(retrieval: Retrieval) -> types_pb2.Retrieval:
    """A wish for older video, for the wire."""
    return types_pb2.Retrieval(
        strategy=retrieval.strategy,
        blocks=retrieval.blocks,
        tokens=retrieval.tokens,
        mass=retrieval.mass,
        chunk=retrieval.chunk,
        # A budget below a millisecond must not become none at all.
        load_budget_ms=math.ceil(retrieval.load_budget_s * 1000),
    )
