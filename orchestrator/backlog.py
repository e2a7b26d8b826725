"""Pure. The replay log of one stream: compressed media that may be needed again, bounded, in order.

Knows neither messages nor services; pictures and runs of bytes are opaque. Positions count pictures or
bytes::

    front ........ safe ........ cursor ........ end
      kept: published | replay:       | waiting: not
      media, dropped  | at the encoder| delivered yet
      first           |               |

Delivery is exactly once *in effect*: what was delivered and is not safe is delivered again after `rewind`,
and the encoder leaves out frames that are published already.

When the byte bound is hit, media is given up in this order: kept media (costs nothing now); replay copies
beyond half the bound (costs frames only if the encoder is lost next); the oldest waiting media, which becomes
a *hole* in its place, and a declared gap. For a byte stream a hole means that the decoder starts again at
the next key frame, so the real gap is longer than the hole: the encoder reports the rest.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, replace

from tandem.core.timeline import Gap, GapReason, TimeRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One picture (length 1) or a run of bytes (length in bytes)."""

    position: int
    length: int
    time_us: int
    """Presentation time; for bytes, the time up to which the stream was known when they arrived."""
    data: bytes
    arrived_s: float
    picture: object = None
    """What the shell needs to send a picture again; None for bytes."""

    @property
    def end(self) -> int:
        """Position after it."""
        return self.position + self.length

    def after(self, position: int) -> Media:
        """The part from `position` on; a picture is never cut."""
        cut = position - self.position
        if cut <= 0 or self.picture is not None:
            return self
        return replace(self, position=position, length=self.length - cut, data=self.data[cut:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Media that was given up before it was delivered."""

    position: int
    end: int
    range: TimeRange
    is_bytes: bool = False
    """True when `position` counts bytes; then `range` is only a guess."""


Item = Media | Hole


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much a backlog may hold."""

    max_bytes: int = 64 * 1024 * 1024
    """Of one stream's media."""
    max_wait_s: float = 30.0
    """Waiting media older than this becomes a gap, once the encoder takes nothing in; while it does, the
    client is held back at half of it."""
    keep_us: int = 60_000_000
    """Published media is kept for this much stream time, so that a lost reasoner costs time, not memory.
    With a disk tier it is kept until it is durable instead."""
    ahead_items: int = 64
    """Most items at the encoder that it has not taken in."""
    ahead_bytes: int = 8 * 1024 * 1024
    """Most bytes at the encoder that it has not taken in; one item is always allowed."""


class Backlog:
    """The replay log. Owned by its session; time comes in as an argument."""

    def __init__(self, bounds: Bounds, start: int = 0) -> None:
        self._bounds = bounds
        self._max_bytes = bounds.max_bytes
        self.given_up = 0
        """How often the byte bound made a hole."""
        self._delivered: deque[Item] = deque()
        self._waiting: deque[Item] = deque()
        self._delivered_bytes = 0
        self._waiting_bytes = 0
        self._ahead: deque[tuple[int, int]] = deque()  # (end, bytes) delivered and not taken in
        self._ahead_bytes = 0
        self._safe = start
        self._end = start
        self._front = start

    @property
    def bytes(self) -> int:
        """Bytes of media held."""
        return self._delivered_bytes + self._waiting_bytes

    @property
    def end(self) -> int:
        """Position after the last media that was appended."""
        return self._end

    @property
    def front(self) -> int:
        """Everything from this position on can be delivered again."""
        return self._front

    @property
    def front_us(self) -> int | None:
        """Time of the media at the front, or None when nothing is held."""
        first = next((item for queue in (self._delivered, self._waiting) for item in queue), None)
        if first is None:
            return None
        return _start_us(first)

    @property
    def has_waiting(self) -> bool:
        """True while something was not delivered."""
        return bool(self._waiting)

    @property
    def is_ahead(self) -> bool:
        """True while the encoder has as much as it may have."""
        return bool(self._ahead) and (
            len(self._ahead) >= self._bounds.ahead_items or self._ahead_bytes >= self._bounds.ahead_bytes
        )

    def has_room(self, size_bytes: int) -> bool:
        """True when `size_bytes` more fit without giving up media that is still needed."""
        if self.bytes + size_bytes <= self._max_bytes:
            return True
        return self._needed_bytes() + size_bytes <= self._max_bytes

    def limit(self, max_bytes: int) -> None:
        """Another byte bound, never above the first. What is given up at no cost is given up now."""
        self._max_bytes = min(max_bytes, self._bounds.max_bytes)
        while self.bytes > self._max_bytes and self._front_is_safe():
            self._forget_front()

    def append(self, media: Media) -> list[Gap]:
        """Take media in at the end. Returns the gaps that the byte bound made."""
        assert media.position >= self._end, f"{media.position} lies before the end {self._end}"
        self._waiting.append(media)
        self._waiting_bytes += len(media.data)
        self._end = media.end
        return self._shrink()

    def take(self) -> Item | None:
        """The next item for the encoder, or None."""
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        self._delivered.append(item)
        if isinstance(item, Media):
            self._waiting_bytes -= len(item.data)
            self._delivered_bytes += len(item.data)
            self._ahead.append((item.end, len(item.data)))
            self._ahead_bytes += len(item.data)
        return item

    def taken_in(self, position: int) -> None:
        """The encoder has taken in everything before `position`."""
        while self._ahead and self._ahead[0][0] <= position:
            self._ahead_bytes -= self._ahead.popleft()[1]

    def release(self, safe_position: int, watermark_us: int, durable_position: int | None = None) -> None:
        """Nothing before `safe_position` is needed while the reasoner lives.

        Nothing before `durable_position` is needed even when it does not. None: it has no disk tier; then
        published media is kept for `keep_us`, because it cannot be kept for ever.
        """
        self._safe = max(self._safe, safe_position)
        oldest_us = watermark_us - self._bounds.keep_us
        while self._front_is_safe():
            first = self._delivered[0]
            is_done = (
                _time_us(first) < oldest_us if durable_position is None else first.end <= durable_position
            )
            if not is_done:
                break
            self._forget_front()

    def rewind(self, position: int) -> None:
        """Deliver everything from `position` on again, to another encoder."""
        assert position >= self._front, f"{position} lies before the front {self._front}"
        self._ahead.clear()
        self._ahead_bytes = 0
        self._safe = position
        while self._delivered and self._delivered[-1].end > position:
            item = self._delivered.pop()
            if isinstance(item, Media):
                item = self._cut(item, position)
                self._waiting_bytes += len(item.data)
            self._waiting.appendleft(item)

    def waits(self, now_s: float, since_s: float) -> float:
        """Seconds that the oldest waiting media could have been delivered for, and was not."""
        first = self._first_waiting()
        return now_s - max(first.arrived_s, since_s) if first else 0.0

    def give_up_late(self, now_s: float, since_s: float) -> list[Gap]:
        """Turn waiting media into a gap that could have been delivered for too long.

        `since_s`: since when there is somebody to deliver to. Waiting for a new encoder is not held against
        media, the byte bound limits that.
        """
        gaps: list[Gap] = []
        while first := self._first_waiting():
            if self.waits(now_s, since_s) <= self._bounds.max_wait_s:
                break
            gaps.append(self._give_up(first))
        return gaps

    def _first_waiting(self) -> Media | None:
        return next((item for item in self._waiting if isinstance(item, Media)), None)

    def _front_is_safe(self) -> bool:
        return bool(self._delivered) and self._delivered[0].end <= self._safe

    def _needed_bytes(self) -> int:
        if not self._front_is_safe():
            return self.bytes
        kept = sum(len(i.data) for i in self._delivered if isinstance(i, Media) and i.end <= self._safe)
        return self.bytes - kept

    def _shrink(self) -> list[Gap]:
        gaps: list[Gap] = []
        while self.bytes > self._max_bytes:
            first = self._first_waiting()
            too_many_copies = self._delivered_bytes > self._max_bytes // 2
            if self._front_is_safe() or (self._delivered and too_many_copies):
                self._forget_front()
            elif first is not None and len(self._waiting) > 1:
                self.given_up += 1
                gaps.append(self._give_up(first))
            elif self._delivered:
                self._forget_front()
            else:
                break  # one message alone is over the bound: it is let through
        return gaps

    def _forget_front(self) -> None:
        item = self._delivered.popleft()
        self._front = item.end
        if isinstance(item, Media):
            self._delivered_bytes -= len(item.data)

    def _give_up(self, first: Media) -> Gap:
        """`first`, the oldest waiting media, becomes a hole, together with the holes around it."""
        run = list(itertools.takewhile(lambda item: isinstance(item, Hole) or item is first, self._waiting))
        for _ in run:
            self._waiting.popleft()
        self._waiting_bytes -= len(first.data)
        following = self._first_waiting()
        start_us = min(first.time_us, _start_us(run[0]))
        end_us = max(following.time_us if following else first.time_us + 1, _time_us(run[-1]))
        hole = Hole(
            position=run[0].position,
            end=run[-1].end,
            range=TimeRange(start_us, end_us),
            is_bytes=first.picture is None,
        )
        self._waiting.appendleft(hole)
        return Gap(hole.range, GapReason.BACKLOG_FULL)

    def _cut(self, media: Media, position: int) -> Media:
        """Split media that straddles `position`; the first part stays delivered."""
        rest = media.after(position)
        self._delivered_bytes -= len(media.data)
        if rest is not media:
            head_bytes = len(media.data) - len(rest.data)
            head = replace(media, length=media.length - rest.length, data=media.data[:head_bytes])
            self._delivered.append(head)
            self._delivered_bytes += head_bytes
        return rest


def _start_us(item: Item) -> int:
    return item.time_us if isinstance(item, Media) else item.range.start_us


def _time_us(item: Item) -> int:
    return item.time_us if isinstance(item, Media) else item.range.end_us
