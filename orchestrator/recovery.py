"""Pure. What follows from a loss: where the next encoder begins, what is replayed, what is gone.

One rule covers every case, because it starts from what the reasoner *holds* rather than from what died:

* a new stream: nothing is held and everything is in the backlog, so nothing is gone;
* a lost encoder: the reasoner holds everything up to its watermark; go on from there;
* a lost reasoner: what is on disk is held (nothing without a disk tier); replay what the backlog still has
  after that, the rest is a gap;
* a lost orchestrator: the same, and the backlog is empty: the client sends again from the journal's place.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.checkpoints import Checkpoints
from orchestrator.timeline import Timeline
from tandem.core.timeline import Gap, GapReason, TimeRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the reasoner holds of a stream."""

    next_block_number: int = 0
    watermark_us: int = 0
    durable_us: int | None = None
    """Of it, what is on stable storage; None without a disk tier."""
    evicted: tuple[TimeRange, ...] = ()
    """Intervals of it that had to be removed."""
    blocks: int = 0
    """Visual blocks that are left."""
    last_note: int = 0
    """Number of the last note that it keeps; 0 also from a reasoner of a release that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the next encoder begins."""

    position: int
    """First media that it is given."""
    from_us: int
    """Frames before this are published, or gone."""
    next_block_number: int
    decoder_header: bytes
    durable_us: int | None
    """What of it is on stable storage; None without a disk tier."""
    gap: Gap | None
    """What is gone."""
    reason: str

    @property
    def is_new(self) -> bool:
        """True when the encoder starts the stream from nothing."""
        return self.position == 0 and self.from_us == 0 and self.next_block_number == 0


def plan_start(timeline: Timeline, checkpoints: Checkpoints, held: Held, loss: GapReason) -> Start:
    """Decide where to begin.

    Args:
        timeline: how far the stream was, gaps included.
        checkpoints: where a decoder can start with what the backlog holds.
        held: what the reasoner has.
        loss: the reason to give for what is gone.
    """
    held_us = timeline.skip_gaps(held.watermark_us)
    start = checkpoints.choose(held_us)
    from_us = max(held_us, start.time_us)
    gap = Gap(TimeRange(held_us, from_us), loss) if from_us > held_us else None
    return Start(
        position=start.position,
        from_us=from_us,
        next_block_number=held.next_block_number,
        decoder_header=start.decoder_header,
        durable_us=held.durable_us,
        gap=gap,
        reason=_say(timeline, held, start.position, gap),
    )


def _say(timeline: Timeline, held: Held, position: int, gap: Gap | None) -> str:
    if not held.next_block_number and not timeline.next_block_number and gap is None:
        return "a new stream"
    has = f"the reasoner holds {held.next_block_number} blocks to {held.watermark_us / 1e6:.2f} s"
    lost = (
        f"; lost [{gap.range.start_us / 1e6:.2f}, {gap.range.end_us / 1e6:.2f}) s"
        if gap
        else "; nothing lost"
    )
    return f"{has}; replay from position {position}{lost}"
