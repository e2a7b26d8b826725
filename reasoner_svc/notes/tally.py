"""Pure. What of a stream is in no note yet: how many units, and from when to when."""

from __future__ import annotations

from tandem.core.timeline import TimeRange


class Tally:
    """One watcher's. A note takes all that was counted, and gives it back when it comes to nothing."""

    def __init__(self) -> None:
        self.units = 0
        """Counted towards the next note."""
        self._from_us = 0
        self._until_us = 0
        self._owed_us: int | None = None
        """Where the next note begins, though its units do not count any more."""
        self._taken: tuple[int, int] | None = None
        """Of the note on its way: its units, its start."""
        self._failed = False
        """The note before came to nothing."""

    def count(self, time: TimeRange) -> None:
        """One more unit."""
        if not self.units:
            self._from_us = time.start_us if self._owed_us is None else self._owed_us
        self.units += 1
        self._until_us = time.end_us

    def clear(self) -> None:
        """Count anew."""
        self.units, self._owed_us = 0, None

    @property
    def time(self) -> TimeRange:
        """What a note would be about that is begun now."""
        return TimeRange(self._from_us, self._until_us)

    def take(self) -> None:
        """A note about all of it is on its way."""
        self._taken = (self.units, self._from_us)
        self.clear()

    def settled(self) -> None:
        """The note is there."""
        self._taken, self._failed = None, False

    def give_back(self) -> None:
        """The note came to nothing: the next one is about its interval too.

        Its units count again once. What fails twice waits for a whole segment more, so that what can never be
        written is not tried in every tick.
        """
        if self._taken is None:
            return
        units, from_us = self._taken
        self._taken = None
        if self._failed:
            self._owed_us = from_us
        else:
            self.units += units
        self._from_us, self._failed = from_us, True
