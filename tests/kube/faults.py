"""What a test has the API server do wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Happens to requests that match, `times` times (-1: always)."""

    path: str = ""
    """Regular expression, found anywhere in path and query."""
    method: str = ""
    times: int = 1
    status: int = 0
    """Answer this instead."""
    retry_after_s: int | None = None
    delay_s: float = 0.0
    drop: bool = False
    """Break the connection instead of an answer."""
    drop_watch_after: int | None = None
    """Break a watch after so many events."""
    expire_watch_after: int | None = None
    """End a watch with an ERROR event of code 410 after so many events."""
    end_watch: bool = False
    """End a watch in order before it says anything, as a proxy does that takes it for a download."""
    stale_by: int | None = None
    """Answer a list as it was so many writes ago."""

    def matches(self, method: str, path: str) -> bool:
        if self.times == 0 or (self.method and self.method != method):
            return False
        return re.search(self.path, path) is not None


@dataclass
class Faults:
    """In order; the first that matches happens."""

    planned: list[Fault] = field(default_factory=list)

    def add(self, **options: object) -> Fault:
        fault = Fault(**options)  # type: ignore[arg-type]
        self.planned.append(fault)
        return fault

    def clear(self) -> None:
        self.planned.clear()

    def take(self, method: str, path: str) -> Fault | None:
        for fault in self.planned:
            if fault.matches(method, path):
                fault.times -= 1 if fault.times > 0 else 0
                return fault
        return None
