"""Shell: what happened, one JSON object a line, with times in seconds since the run's zero.

`docs/load.md` lists the kinds of events and their fields.
"""

from __future__ import annotations

import json
from typing import Any, TextIO

from tandem.core.errors import TandemError
from tandem.load.pace import Pace

DIGITS = 6
"""Of times: microseconds."""


class EventLog:
    """Writes events."""

    def __init__(self, out: TextIO, pace: Pace) -> None:
        self._out, self._pace = out, pace

    def write(self, kind: str, at_s: float | None = None, **fields: Any) -> None:
        """Add one event; `at_s` is when it happened, now if not given."""
        event = {"t": self._pace.now_s() if at_s is None else at_s, "kind": kind, **fields}
        self._out.write(json.dumps(_rounded(event), separators=(",", ":")) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def error_fields(error: TandemError) -> dict[str, Any]:
    """What an event says of an error."""
    return {"code": error.code.value, "retry_after_s": error.retry_after_s, "message": error.message[:300]}
