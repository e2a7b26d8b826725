"""Gaps against a naive model that paints microseconds one by one; recovery never invents or hides a loss."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.recovery import Held, plan_start
from orchestrator.timeline import Timeline
from tandem.core.timeline import Gap, GapReason, TimeRange

END = 40
REASONS = [GapReason.UNDECODABLE, GapReason.SOURCE, GapReason.REASONER_LOST]
times = st.integers(0, END)
ranges = st.tuples(times, times).map(lambda pair: TimeRange(min(pair), max(pair)))
gaps = st.builds(Gap, ranges, st.sampled_from(REASONS))


def paint(items: list[Gap]) -> dict[int, GapReason]:
    painted: dict[int, GapReason] = {}
    for item in items:
        for time_us in range(item.range.start_us, item.range.end_us):
            painted.setdefault(time_us, item.reason)
    return painted


@given(st.lists(gaps, max_size=12))
def test_declared_gaps_are_the_painted_ones(items: list[Gap]) -> None:
    line = Timeline()
    for item in items:
        line.declare(item)
    assert paint(line.gaps) == paint(items)
    for former, latter in zip(line.gaps, line.gaps[1:], strict=False):
        assert former.range.end_us <= latter.range.start_us
        assert former.range.end_us < latter.range.start_us or former.reason is not latter.reason
    for time_us in range(END + 1):
        free = line.skip_gaps(time_us)
        assert free not in paint(items)
        assert all(between in paint(items) for between in range(time_us, free))


@given(
    st.lists(st.tuples(st.integers(1, 9), times), max_size=8),
    st.lists(gaps, max_size=6),
    times,
    st.integers(0, 60),
)
def test_recovery_accounts_for_every_moment(
    steps: list[tuple[int, int]], items: list[Gap], held_us: int, front: int
) -> None:
    """Before `from_us` all is held, or a gap, or newly declared; what is declared was none of these."""
    line = Timeline()
    for item in items:
        line.declare(item)
    known = Checkpoints(Checkpoint(position=0, time_us=0))
    position = time_us = 0
    for step, ahead in steps:
        position, time_us = position + step, max(time_us, ahead)
        known.add(Checkpoint(position=position, time_us=time_us))
    if front <= position:
        known.forget_before(front, time_us)
    held = Held(next_block_number=1 if held_us else 0, watermark_us=held_us)
    start = plan_start(line, known, held, GapReason.REASONER_LOST)
    lost = set(range(start.gap.range.start_us, start.gap.range.end_us)) if start.gap else set()
    painted = paint(line.gaps)
    assert all(t < held_us or t in painted or t in lost for t in range(start.from_us))
    assert all(t >= held_us for t in lost)
    assert start.position >= known.oldest.position
