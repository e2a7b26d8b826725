"""Pure. What happens to one run, in order: at once, or when its watcher has finished what it writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Call = Callable[[], None]


class Line:
    """A queue that stands still now and then. Owned by the engine's thread."""

    def __init__(self, stands: Callable[[], bool]) -> None:
        """Nothing is done while `stands()`."""
        self._stands = stands
        self._waiting: deque[Call] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call: Call) -> None:
        """Do this after all before it."""
        self._waiting.append(call)
        self.move()

    def move(self) -> None:
        """Do what may be done now."""
        while self._waiting and not self._stands():
            self._waiting.popleft()()

    def clear(self) -> None:
        """Do all of it, whatever stands."""
        while self._waiting:
            self._waiting.popleft()()
