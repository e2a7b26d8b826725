"""Pure: what was pushed and asked, in order, and what of it must be sent now or again. Does no I/O.

Positions count pictures or bytes. For one stream::

    0 ........ safe ........ acknowledged ........ sent ........ end
      forgotten |  kept, may be asked for again       | waiting   |
                                    | in flight: at most the window |

Questions, cancels and the end stand in the same order as the media, because a question is about what was
pushed before it. They stay until they are settled, so that a new connection repeats them in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tandem.client.thinking import Thinking
from tandem.client.types import PictureFormat, Retrieval, Sampling
from tandem.client.workers import Workers
from tandem.core.standing import StandingQuestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One picture (length 1) or a run of bytes (length in bytes)."""

    position: int
    length: int
    data: bytes
    pts_us: int | None
    """Presentation time; for chunks the latest that they hold, or None when the pusher does not know."""
    format: PictureFormat | None = None
    """Set for pictures."""
    width: int = 0
    height: int = 0

    @property
    def end(self) -> int:
        """Position after it."""
        return self.position + self.length

    def after(self, position: int) -> Media:
        """The part from `position` on; a picture is never cut."""
        cut = position - self.position
        if cut <= 0 or self.format is not None:
            return self
        return replace(self, position=position, length=self.length - cut, data=self.data[cut:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question."""

    question_id: str
    text: str
    sampling: Sampling | None = None
    at_once: bool = False
    latency_budget_s: float = 0.0
    retrieval: Retrieval | None = None
    workers: Workers | None = None
    thinking: Thinking | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The end of a question."""

    question_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of the media."""

    forget: bool


@dataclass(frozen=True, slots=True)
class Stand:
    """A question that stands until it is cancelled."""

    standing: StandingQuestion

    @property
    def question_id(self) -> str:
        """Its id."""
        return self.standing.question_id


Entry = Media | Ask | Cancel | End | Stand


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Media the server asked for again and the client no longer has: positions ``[start, end)``."""

    start: int
    end: int
    resumes_at_us: int | None
    """Presentation time of the first media that is still kept, where known."""


class Outbox:
    """The ordered log. One owner: the event loop of its stream."""

    def __init__(self, *, window_bytes: int, retain_bytes: int, start: int = 0) -> None:
        self._window_bytes = window_bytes
        self._retain_bytes = max(retain_bytes, window_bytes)
        self._log: dict[int, Entry] = {}  # serial -> entry, in order
        self._next_serial = 0
        self._cursor = 0  # serial of the next entry to look at for sending
        self._skip_before = start  # media before this is not sent again
        self._kept: deque[int] = deque()  # serials of media in the log
        self._kept_bytes = 0
        self._in_flight: deque[Media] = deque()
        self._in_flight_bytes = 0
        self._end = start

    @property
    def end(self) -> int:
        """Position of the next media to be pushed."""
        return self._end

    @property
    def kept_bytes(self) -> int:
        """Bytes of media that are held."""
        return self._kept_bytes

    @property
    def in_flight_bytes(self) -> int:
        """Bytes that were pushed and not acknowledged."""
        return self._in_flight_bytes

    def start_at(self, position: int) -> None:
        """Begin at `position`: the stream was fed by somebody before us. Only while nothing was pushed."""
        assert not self._log, f"{len(self._log)} entries were pushed before the start was known"
        self._end = self._skip_before = position

    def has_room(self, size: int) -> bool:
        """True when `size` more bytes fit into the window; one message always fits into an empty one."""
        return self._in_flight_bytes == 0 or self._in_flight_bytes + size <= self._window_bytes

    def add(self, entry: Ask | Cancel | End | Stand) -> None:
        """Append what is not media."""
        self._append(entry)

    def add_media(
        self,
        data: bytes,
        *,
        pts_us: int | None,
        picture: PictureFormat | None = None,
        width: int = 0,
        height: int = 0,
    ) -> Media:
        """Append a picture or a chunk at the end position."""
        media = Media(
            position=self._end,
            length=1 if picture else len(data),
            data=data,
            pts_us=pts_us,
            format=picture,
            width=width,
            height=height,
        )
        self._end = media.end
        self._kept.append(self._append(media))
        self._kept_bytes += len(data)
        self._in_flight.append(media)
        self._in_flight_bytes += len(data)
        return media

    def take(self) -> Entry | None:
        """The next entry to send, or None when all was sent."""
        while self._cursor < self._next_serial:
            entry = self._log.get(self._cursor)
            self._cursor += 1
            if isinstance(entry, Media):
                if entry.end > self._skip_before:
                    return entry.after(self._skip_before)
            elif entry is not None:
                return entry
        return None

    def acknowledge(self, *, safe_position: int, received_us: int, received_position: int = 0) -> None:
        """The server needs nothing before `safe_position` again.

        It holds everything up to `received_us` and before `received_position`.
        """
        received_position = max(received_position, safe_position)
        while self._in_flight and _is_received(self._in_flight[0], received_position, received_us):
            self._in_flight_bytes -= len(self._in_flight.popleft().data)
        while self._kept and self._oldest_kept().end <= safe_position:
            self._forget_oldest()
        acknowledged = self._in_flight[0].position if self._in_flight else self._end
        while self._kept_bytes > self._retain_bytes and self._oldest_kept().end <= acknowledged:
            self._forget_oldest()

    def refuse(self, position: int) -> None:
        """The server will not take the picture at `position`: nothing else would ever acknowledge it."""
        refused = [media for media in self._in_flight if media.position == position and media.format]
        for media in refused:
            self._in_flight.remove(media)
            self._in_flight_bytes -= len(media.data)

    def stands(self, question_id: str) -> bool:
        """True for a standing question that was not cancelled."""
        return any(isinstance(e, Stand) and e.question_id == question_id for e in self._log.values())

    def settle(self, question_id: str) -> None:
        """A question was answered or refused: it and its cancel are not sent again."""
        done = [
            serial
            for serial, entry in self._log.items()
            if isinstance(entry, Ask | Cancel | Stand) and entry.question_id == question_id
        ]
        for serial in done:
            del self._log[serial]

    def rewind(self, next_position: int) -> Forgotten | None:
        """A new connection goes on from `next_position`: send all from there again.

        Where that is no longer kept, sending starts with the oldest that is, and what is missing is returned:
        the server sees the jump in positions and declares a gap.
        """
        first = self._oldest_kept() if self._kept else None
        start = first.position if first else self._end
        self._cursor = min(self._log, default=self._next_serial)
        self._skip_before = max(next_position, start)
        self._in_flight = deque(media for media in self._media() if media.end > self._skip_before)
        self._in_flight_bytes = sum(len(media.data) for media in self._in_flight)
        if next_position >= start:
            return None
        return Forgotten(next_position, start, first.pts_us if first else None)

    def _append(self, entry: Entry) -> int:
        serial = self._next_serial
        self._log[serial] = entry
        self._next_serial += 1
        return serial

    def _media(self) -> Iterator[Media]:
        for serial in self._kept:
            entry = self._log[serial]
            assert isinstance(entry, Media), entry
            yield entry

    def _oldest_kept(self) -> Media:
        return next(self._media())

    def _forget_oldest(self) -> None:
        serial = self._kept.popleft()
        entry = self._log.pop(serial)
        assert isinstance(entry, Media), entry
        self._kept_bytes -= len(entry.data)


def _is_received(media: Media, position: int, received_us: int) -> bool:
    return media.end <= position or (media.pts_us is not None and media.pts_us < received_us)
