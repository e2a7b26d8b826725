"""Pure. What of a peer's request is judged before anything is computed from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kv_transfer.header import check_header
from tandem.core.blocks import BlockHeader
from tandem.core.errors import InvalidInput

MAX_PATIENCE_S = 86_400.0
"""Longest a peer may ask us to keep a request; what never ends would be held for ever."""


def check_patience(timeout_s: float) -> None:
    """Raise InvalidInput for a time that never runs out (NaN, infinite) or is above the limit."""
    if not math.isfinite(timeout_s) or timeout_s > MAX_PATIENCE_S:
        raise InvalidInput(f"a timeout of {timeout_s} s, at most {MAX_PATIENCE_S:.0f} s are accepted")


def check_offered(headers: Sequence[BlockHeader], timeout_s: float) -> None:
    """Raise InvalidInput unless blocks are offered, their headers describe possible ones, and time ends."""
    if not headers:
        raise InvalidInput("an offer without blocks")
    check_patience(timeout_s)
    for header in headers:
        check_header(header)
