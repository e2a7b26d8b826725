"""Shell. What others ask of the model's thread: a queue that it carries out in order, between its ticks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from tandem.core.clock import Clock

COMMAND_SLICE_S = 0.02
"""Longest time for commands before running questions get their tick: an answer stutters by no more."""
LOOK_S = 0.005
"""How often questions that rest are looked at."""

Command = Callable[[], None]


class Commands:
    """The queue; `submit` and `close` are for any thread, the rest for the one that carries them out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wake = threading.Condition()
        self._waiting: deque[Command] = deque()
        self._closing = False
        self._ended = False
        """The thread touches nothing any more; guarded by `_wake`, like `_waiting`."""

    @property
    def closing(self) -> bool:
        """The thread is to end."""
        return self._closing

    def submit(self, command: Command) -> None:
        """Have a command carried out after all before it."""
        with self._wake:
            if not self._ended:
                self._waiting.append(command)
                self._wake.notify()
                return
        # The thread is gone: only bookkeeping is left to do.
        command()

    def close(self) -> None:
        """Ask the thread to end."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def take(self, is_busy: Callable[[], bool], is_open: Callable[[], bool]) -> bool:
        """Carry out what waits, for a slice of time while busy; wait when there is nothing else to do.

        True when there was any. While it is open it may become busy by itself.
        """
        with self._wake:
            while not (self._waiting or is_busy() or self._closing):
                self._wake.wait(LOOK_S if is_open() else None)
        until_s = self._clock() + COMMAND_SLICE_S
        took = bool(self._waiting)
        while self._waiting and (not is_busy() or self._clock() < until_s):
            self._waiting.popleft()()
        return took

    def finish(self) -> None:
        """Carry out what is left; what comes after that runs where it comes from."""
        while True:
            with self._wake:
                left, self._waiting = self._waiting, deque()
                self._ended = not left
            if not left:
                return
            for command in left:
                command()
