"""Pure. One stream's times: what was received, what is published, what is a gap.

Everything is stream time in microseconds, half-open: a picture with pts ``t`` is received when
``received_us > t`` and published when ``watermark_us > t``.

::

    0 ......... watermark ......... decoded ......... received
      published |    at the encoder |   in the backlog |
      or a gap
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from tandem.core.timeline import Gap, GapReason, TimeRange

MAX_GAPS = 4096
"""Gaps kept one by one. Beyond that the oldest two become one that covers what lies between them too: what
is told is then more than what is missing, never less."""
MAX_FRAMES = 512
"""Frames of an encoded stream whose places are remembered: 17 s at 30 a second, about 64 KiB. A question that
waits looks at them when the encoder says more, from the newest back, and finds its own among the first."""
GONE_AGAIN = frozenset(
    {GapReason.EVICTED, GapReason.OVERLOAD, GapReason.REASONER_LOST, GapReason.ORCHESTRATOR_LOST}
)
"""Reasons of gaps that a replay may fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderProgress:
    """What an encoder says of a stream."""

    watermark_us: int
    decoded_us: int
    safe_position: int
    consumed_position: int
    next_block_number: int
    frames_waiting: int
    lag_ms: float
    frames: tuple[tuple[int, int], ...] = ()
    """Of bytes: where each frame begins that was decoded since, and its time."""
    decoded_position: int | None = None


@dataclass(slots=True, kw_only=True)
class Timeline:
    """Where a stream stands. Owned by its session."""

    received_us: int = 0
    """End of what the client sent; for byte streams, of what the encoder has decoded of it."""
    watermark_us: int = 0
    durable_us: int | None = None
    """Up to here everything is on stable storage or a gap; None while the reasoner has no disk tier."""
    highest_us: int = 0
    """The highest watermark before a loss: a replay is over once it is reached again."""
    decoded_us: int = 0
    safe_position: int = 0
    consumed_position: int = 0
    next_block_number: int = 0
    frames_waiting: int = 0
    lag_ms: float = 0.0
    frames: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MAX_FRAMES))
    """Of bytes: where frames begin, and their times."""
    decoded_position: int | None = None
    """Of bytes: every frame that begins before it was told; None from an encoder that does not say."""
    gaps: list[Gap] = field(default_factory=list)
    """In order, never overlapping."""
    gap_changes: int = 0
    """How often they may have changed."""

    @property
    def blocks(self) -> int:
        """Visual blocks published; block 0 is the prompt's sink."""
        return max(self.next_block_number - 1, 0)

    @property
    def is_replaying(self) -> bool:
        """True while less is published than was before a loss."""
        return self.watermark_us < self.highest_us

    def receive(self, end_us: int) -> None:
        """Media up to `end_us` arrived."""
        self.received_us = max(self.received_us, end_us)

    def apply(self, progress: EncoderProgress) -> None:
        """The encoder went on. Its watermark never takes back what was published before it began."""
        self.watermark_us = max(self.watermark_us, progress.watermark_us)
        self.decoded_us = max(self.decoded_us, progress.decoded_us)
        self.safe_position = max(self.safe_position, progress.safe_position)
        self.consumed_position = max(self.consumed_position, progress.consumed_position)
        self.next_block_number = max(self.next_block_number, progress.next_block_number)
        self.frames_waiting = progress.frames_waiting
        self.lag_ms = progress.lag_ms
        self.frames += progress.frames
        if progress.decoded_position is not None:
            self.decoded_position = max(self.decoded_position or 0, progress.decoded_position)

    def restart(
        self, *, from_us: int, position: int, next_block_number: int, durable_us: int | None = None
    ) -> None:
        """Another encoder goes on from there; what was published after `from_us` is gone or comes again."""
        self.durable_us = durable_us
        self.highest_us = max(self.highest_us, self.watermark_us)
        self.watermark_us = from_us
        self.decoded_us = from_us
        self.safe_position = self.consumed_position = position
        if self.decoded_position is not None:
            self.decoded_position = min(self.decoded_position, position)
        self.next_block_number = next_block_number
        self.frames_waiting = 0

    def declare(self, gap: Gap) -> None:
        """Record a gap. What is a gap already keeps its first reason."""
        self.gap_changes += 1
        wanted = gap.range
        first = bisect_left(self.gaps, wanted.start_us, key=lambda known: known.range.end_us)
        last = bisect_right(self.gaps, wanted.end_us, key=lambda known: known.range.start_us)
        near = self.gaps[first:last]
        pieces = [Gap(part, gap.reason) for part in _not_in(near, wanted)]
        self.gaps[first:last] = _joined([*near, *pieces])
        while len(self.gaps) > MAX_GAPS:
            self.gaps[:2] = [_over_both(*self.gaps[:2])]

    def refill(self, from_us: int, reasons: Iterable[GapReason]) -> None:
        """Forget gaps of these reasons after `from_us`: their media is being encoded again."""
        self.gap_changes += 1
        dropped = frozenset(reasons)
        kept = []
        for gap in self.gaps:
            if gap.reason not in dropped or gap.range.end_us <= from_us:
                kept.append(gap)
            elif gap.range.start_us < from_us:
                kept.append(Gap(TimeRange(gap.range.start_us, from_us), gap.reason))
        self.gaps = kept

    def is_published(self, asked_us: int) -> bool:
        """True when everything before `asked_us` is published or a gap.

        At equality a frame of exactly that time may still be with the model.
        """
        if self.watermark_us == asked_us:
            return self.frames_waiting == 0
        return self.watermark_us > asked_us

    def time_at(self, position: int) -> int | None:
        """Of bytes: time of the newest frame that begins before `position`; None until it is decoded.

        What came later may be decoded by then too: whoever asked at `position` had not sent it yet.
        """
        if self.decoded_position is None:  # decoding is in order: the next was taken in, so this is done
            return self.received_us if self.consumed_position > position else None
        if self.decoded_position < position:  # one that begins later may be decoded before one that does not
            return None
        if not self.frames:
            return self.received_us
        # They are told in the order of their times, again after a loss: the last that fits is the newest.
        newest = next((time_us for start, time_us in reversed(self.frames) if start < position), None)
        return newest if newest is not None else max(self.frames[0][1] - 1, 0)

    def is_idle(self, position: int) -> bool:
        """True when the encoder has everything before `position` and waits for none of it.

        It may still be decoding: only after a quiet while this means that nothing more will come of it.
        """
        return self.consumed_position >= position and self.frames_waiting == 0

    def skip_gaps(self, time_us: int) -> int:
        """The first time at or after `time_us` that is not inside a gap."""
        for gap in self.gaps:
            if gap.range.start_us <= time_us < gap.range.end_us:
                time_us = gap.range.end_us
        return time_us

    def gaps_before(self, time_us: int) -> list[Gap]:
        """The gaps that start before `time_us`, cut there."""
        return [
            Gap(TimeRange(gap.range.start_us, min(gap.range.end_us, time_us)), gap.reason)
            for gap in self.gaps
            if gap.range.start_us < time_us
        ]


def _not_in(gaps: Iterable[Gap], wanted: TimeRange) -> list[TimeRange]:
    parts, start = [], wanted.start_us
    for gap in gaps:
        if gap.range.end_us <= start or gap.range.start_us >= wanted.end_us:
            continue
        if gap.range.start_us > start:
            parts.append(TimeRange(start, gap.range.start_us))
        start = gap.range.end_us
    if start < wanted.end_us:
        parts.append(TimeRange(start, wanted.end_us))
    return parts


def _over_both(first: Gap, second: Gap) -> Gap:
    """One gap for two and what lies between. A reason that no replay cures stays."""
    reason = second.reason if first.reason in GONE_AGAIN else first.reason
    return Gap(TimeRange(first.range.start_us, second.range.end_us), reason)


def _joined(gaps: Iterable[Gap]) -> list[Gap]:
    joined: list[Gap] = []
    for gap in sorted(gaps):
        last = joined[-1] if joined else None
        if last and last.reason is gap.reason and last.range.end_us == gap.range.start_us:
            joined[-1] = Gap(TimeRange(last.range.start_us, gap.range.end_us), gap.reason)
        else:
            joined.append(gap)
    return joined
