"""Pure. Where a fresh encoder can start a stream again, and what is then published already.

An encoder says with each progress: "media before `position` is not needed to rebuild anything after
`time_us`". Each such statement stays true for as long as the backlog still holds the media after it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

MAX_CHECKPOINTS = 512
"""Beyond this every second of the older half is left out: coarser steps, same reach."""

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Well below what a client keeps: where the disk takes nothing, it must still have what it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A place to start."""

    position: int
    """The next picture's sequence, or the byte offset where a decoder can start."""
    time_us: int
    """Frames before this need not be encoded from here."""
    decoder_header: bytes = b""
    """What the decoder must be fed first."""


class Checkpoints:
    """The known places, oldest first, by rising position and time."""

    def __init__(self, first: Checkpoint) -> None:
        self._known: deque[Checkpoint] = deque([first])
        self.announced = first
        """Where the client was told to go on: what comes before it, it may have forgotten."""
        self.carried = b""
        """What the client is given with it, for an orchestrator without our journal."""

    def announce(self, place: Checkpoint, carried: bytes) -> None:
        """The client is told to go on there from now on, and given what goes with it."""
        self.announced, self.carried = place, carried

    @property
    def latest(self) -> Checkpoint:
        """The newest place."""
        return self._known[-1]

    @property
    def oldest(self) -> Checkpoint:
        """The oldest place."""
        return self._known[0]

    def add(self, checkpoint: Checkpoint) -> None:
        """A newer place. At an equal position the earlier time stays: more can be rebuilt from it."""
        latest = self._known[-1]
        if checkpoint.position == latest.position:
            self._known[-1] = replace(latest, decoder_header=checkpoint.decoder_header)
        if checkpoint.position > latest.position and checkpoint.time_us >= latest.time_us:
            self._known.append(checkpoint)
            if len(self._known) > MAX_CHECKPOINTS:
                self._thin()

    def forget_before(self, position: int, time_us: int) -> None:
        """The backlog no longer holds media before `position`, which is at `time_us`.

        When no place is left, the front of the backlog becomes one: a decoder may need to wait there for a
        key frame, and reports what it missed.
        """
        header = self._known[-1].decoder_header
        while self._known and self._known[0].position < position:
            self._known.popleft()
        if not self._known:
            self._known.append(Checkpoint(position=position, time_us=time_us, decoder_header=header))

    def restart(self, start: Checkpoint) -> None:
        """A new encoder begins at `start`: later places are said anew by it."""
        while self._known and self._known[-1].position >= start.position:
            self._known.pop()
        self._known.append(start)

    def choose(self, held_us: int) -> Checkpoint:
        """The newest place from which nothing after `held_us` is missed, else the oldest there is."""
        best = self._known[0]
        for checkpoint in self._known:
            if checkpoint.time_us <= held_us:
                best = checkpoint
        return best

    def safe(self, durable_us: int | None, *, is_bytes: bool) -> Checkpoint:
        """Where a client goes on when all services are lost: it must keep what comes after.

        That is the newest place from which nothing is missed that is not durable (None: nothing waits for a
        disk). Positions that count bytes may not lie further behind than `MAX_WAITING_BYTES`, and none lies
        before the one that was announced: the client could not send what is asked for.
        """
        place = self.latest
        if durable_us is not None:
            durable = self.choose(durable_us)
            if not is_bytes or place.position - durable.position <= MAX_WAITING_BYTES:
                place = durable
        return place if place.position >= self.announced.position else self.announced

    def _thin(self) -> None:
        known = list(self._known)
        half = len(known) // 2
        self._known = deque([*known[:half:2], *known[half:]])
