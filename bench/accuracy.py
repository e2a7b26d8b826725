"""Held-out accuracy of the embedded default model.

Metrics are ``accuracy_<strategy>_<events>events[_<kind>]``: *full* attends to everything in view, *window16*
encodes with the sliding window that the service uses. Clips come from seeds that training never draws.
"""

from __future__ import annotations

from typing import Any


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """Rows over clips of 8, 32 and 40 events, each with every kind of question."""
    from tandem.shapes.evaluate import rows

    found = rows(clips=3, events=(8, 32)) if quick else rows(clips=30)
    return [{**row, "baseline": None, "ratio": None, "spread": None} for row in found]
