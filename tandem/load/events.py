"""Shell: reads the events of a run's processes back, in order of time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def read_events(paths: Iterable[Path]) -> list[Event]:
    """All events of these files, by time."""
    events: list[Event] = []
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            events += [json.loads(line) for line in lines]
    return sorted(events, key=lambda event: event["t"])


def write_events(path: Path, events: Iterable[Event]) -> None:
    """One event a line."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
