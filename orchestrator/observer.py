"""Shell without waiting: looks at streams once a second, and is told what cannot be seen in passing.

What it counts, it counts from what sessions are anyway; it decides nothing, and nothing waits for it. What an
operator asks of one stream (where it is and why, how fast, what went wrong last) is kept here too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator import metrics
from orchestrator.answers import Answers
from orchestrator.frame_traces import FrameTraces
from orchestrator.membership import Loss
from orchestrator.placement import Placed
from orchestrator.session import Session
from orchestrator.stream import State
from tandem.core.clock import Clock
from tandem.core.errors import ErrorCode, TandemError
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.timeline import MICROSECONDS, GapReason

LOOK_S = 1.0
RATE_S = 10.0
"""Rates are of the last so many seconds."""
_FATES = {
    GapReason.UNDECODABLE.value: "dropped",
    GapReason.BACKLOG_FULL.value: "dropped",
    GapReason.OVERLOAD.value: "dropped",
    GapReason.REASONER_LOST.value: "lost",
    GapReason.ORCHESTRATOR_LOST.value: "lost",
    GapReason.EVICTED.value: "evicted",
}
"""What a gap means for its frames; what the source never sent were none."""


@dataclass(slots=True, eq=False)
class Seen:
    """What is remembered of one stream."""

    session: Session
    blocks: int = 0
    """Most that were ever published; a replay counts anew from below."""
    gaps_us: dict[str, int] = field(default_factory=dict)
    """Most that was ever missing, by reason; a replay fills gaps."""
    gap_changes: int = -1
    """Of the timeline, when they were summed up last."""
    history: deque[tuple[float, int]] = field(default_factory=deque)
    """(time, blocks) of the last looks."""
    names: tuple[str, str] = ("", "")
    """Encoder and reasoner that it is placed on; empty before the first placement."""
    pair: tuple[str, str] = ("", "")
    """Boot ids of the two."""
    placed_because: str = ""
    last_error: str = ""
    last_error_s: float = 0.0
    lost_s: float | None = None
    """Since when it has no working services."""
    lost_pair: tuple[str, str] = ("", "")

    def rate(self) -> float:
        """Blocks published a second, lately."""
        if len(self.history) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self.history[0], self.history[-1]
        return max(last - first, 0) / (last_s - first_s) if last_s > first_s else 0.0


class Observer:
    """Of one orchestrator. Owned by the event loop."""

    def __init__(
        self, clock: Clock, telemetry: Telemetry = NO_TELEMETRY, trace_frames_s: float = 0.0
    ) -> None:
        self.telemetry = telemetry
        self.frames = FrameTraces(clock, telemetry.tracer, trace_frames_s)
        self._clock = clock
        self._seen: dict[str, Seen] = {}
        self._ending: list[Seen] = []
        """Of ids that were opened anew before the former stream was looked at last."""
        self._looked_s = clock()
        self.answers = Answers()

    def __iter__(self) -> Iterator[Seen]:
        return iter([*self._ending, *self._seen.values()])

    def find(self, stream_id: str) -> Seen | None:
        """What is remembered of a stream that is held."""
        return self._seen.get(stream_id)

    def began(self, session: Session) -> None:
        """A stream is held from now on."""
        former = self._seen.pop(session.stream_id, None)
        if former is not None:
            self._ending.append(former)
        # What a former orchestrator counted is not counted again.
        self._seen[session.stream_id] = Seen(session, gaps_us=gap_times(session))

    def opened(self, outcome: str, error: TandemError | None = None) -> None:
        """A call opened a stream, resumed one, or was refused."""
        reason = error.code.value if error is not None else ""
        self.telemetry.meters.count(metrics.OPENS, outcome=outcome, reason=reason)

    def placed(self, session: Session, placed: Placed) -> None:
        """A stream was given a pair, and stands where its encoder begins."""
        seen = self._seen.get(session.stream_id)
        if seen is None:
            return
        names = placed.encoder.name, placed.reasoner.name
        outcome = "first" if not any(seen.names) else "again" if names == seen.names else "moved"
        self.telemetry.meters.count(metrics.PLACEMENTS, outcome=outcome)
        if not any(seen.names):
            seen.blocks = session.timeline.blocks  # what a reasoner held of it already
        seen.names, seen.placed_because = names, placed.reason
        seen.pair = placed.encoder.boot_id, placed.reasoner.boot_id

    def lost(self, session: Session, error: TandemError) -> None:
        """A placement broke."""
        self.telemetry.meters.count(metrics.BREAKS, reason=error.code.value)
        seen = self._seen.get(session.stream_id)
        if seen is None:
            return
        self._repaired(seen)
        seen.last_error, seen.last_error_s = error.message, self._clock()
        if seen.lost_s is None and session.state in {State.LIVE, State.ENDED}:
            seen.lost_s, seen.lost_pair = self._clock(), seen.pair

    def service_silent(self, loss: Loss) -> None:
        """A service is lost, because its lease ran out."""
        self.telemetry.meters.count(metrics.LEASES, role=loss.identity.role.value)

    def service_restarted(self, role: str) -> None:
        """A service is back as another process."""
        self.telemetry.meters.count(metrics.RESTARTS, role=role)

    def refused(self, what: str, error: TandemError) -> None:
        """A client was refused a stream, a question or a standing one."""
        self.telemetry.meters.count(metrics.REJECTIONS, outcome=what, reason=error.code.value)

    def call_ended(self, error: TandemError) -> None:
        """A client's call ended with an error."""
        if error.code is ErrorCode.SLOW_READER:
            self.telemetry.meters.count(metrics.SLOW_READERS)

    def received(self, pictures: int, media_bytes: int) -> None:
        """A client sent something new."""
        if pictures:
            self.telemetry.meters.count(metrics.FRAMES, pictures, outcome="received", reason="")
        self.telemetry.meters.count(metrics.MEDIA_BYTES, media_bytes)

    def picture_refused(self, error: TandemError) -> None:
        """A picture was refused at the door."""
        self.telemetry.meters.count(metrics.FRAMES, outcome="refused", reason=error.code.value)

    def look(self, *, now: bool = False) -> None:
        """Count what changed since the last look; at most once a second unless `now`."""
        now_s = self._clock()
        is_due = now_s - self._looked_s >= LOOK_S
        if not (is_due or now):
            return
        if is_due:
            self._looked_s = now_s
        for seen in self:
            self._count(seen)
            if is_due:
                self._sample(seen, now_s)
        self._let_go()

    def _count(self, seen: Seen) -> None:
        session, meters = seen.session, self.telemetry.meters
        if (blocks := session.timeline.blocks) > seen.blocks:
            meters.count(metrics.BLOCKS, blocks - seen.blocks)
            seen.blocks = blocks
        self._repaired(seen)
        if session.timeline.gap_changes == seen.gap_changes:
            return  # there may be thousands
        seen.gap_changes = session.timeline.gap_changes
        for reason, missing_us in gap_times(session).items():
            more_us = missing_us - seen.gaps_us.get(reason, 0)
            if more_us > 0:
                seen.gaps_us[reason] = missing_us
                meters.count(metrics.GAPS, more_us / MICROSECONDS, reason=reason)
                if (fate := _FATES.get(reason)) is not None:
                    frames = more_us / MICROSECONDS * session.sample_fps
                    meters.count(metrics.FRAMES, frames, outcome=fate, reason=reason)

    def _repaired(self, seen: Seen) -> None:
        if seen.lost_s is None:
            return
        if seen.session.pace.live_s > seen.lost_s and seen.session.state is not State.CLOSED:
            took_s = seen.session.pace.live_s - seen.lost_s
            role = replaced_role(seen.lost_pair, seen.pair)
            self.telemetry.meters.observe(metrics.RECOVERY, took_s, role=role)
            seen.lost_s = None

    def _sample(self, seen: Seen, now_s: float) -> None:
        session = seen.session
        if session.outbox is not None and session.timeline.received_us:
            self.telemetry.meters.observe(metrics.LAG, lag_us(session) / MICROSECONDS)
        seen.history.append((now_s, session.timeline.blocks))
        while now_s - seen.history[0][0] > RATE_S:
            seen.history.popleft()

    def _let_go(self) -> None:
        over = [seen for seen in self if seen.session.state is State.CLOSED]
        for seen in over:
            error = seen.session.error
            outcome, reason = ("failed", error.code.value) if error is not None else ("closed", "")
            self.telemetry.meters.count(metrics.CLOSES, outcome=outcome, reason=reason)
            if self._seen.get(seen.session.stream_id) is seen:
                del self._seen[seen.session.stream_id]
                self.frames.forget(seen.session.stream_id)
        if over:
            self._ending = [seen for seen in self._ending if seen not in over]


def replaced_role(before: tuple[str, str], now: tuple[str, str]) -> str:
    """Who of an encoder and a reasoner is another process than before; "link" when neither is."""
    encoder, reasoner = (former != present for former, present in zip(before, now, strict=True))
    return "both" if encoder and reasoner else "encoder" if encoder else "reasoner" if reasoner else "link"


def lag_us(session: Session) -> int:
    """Stream time that was received and is not published."""
    return max(session.timeline.received_us - session.timeline.watermark_us, 0)


def gap_times(session: Session) -> dict[str, int]:
    """Microseconds that are missing of a stream, by reason."""
    sums: Counter[str] = Counter()
    for gap in session.timeline.gaps:
        sums[gap.reason.value] += gap.range.duration_us
    return sums
