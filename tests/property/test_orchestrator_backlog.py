"""The backlog against a naive model: whatever happens, the encoder sees every picture exactly once in effect,
or a hole in its place that was declared as a gap.
"""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.backlog import Backlog, Bounds, Hole, Media
from tandem.core.timeline import TimeRange, merge_ranges

BOUNDS = Bounds(max_bytes=100, max_wait_s=10.0, keep_us=5_000, ahead_items=4, ahead_bytes=60)


class BacklogMachine(RuleBasedStateMachine):
    """Pictures of 1 to 30 bytes; picture n has pts n * 1000 us."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(BOUNDS)
        self.now_s = 0.0
        self.sizes: dict[int, int] = {}
        self.gaps: list[TimeRange] = []
        self.cursor = 0
        """Next picture that the present encoder must get."""
        self.safe = 0

    @rule(size=st.integers(1, 30), wait_s=st.floats(0, 3))
    def append(self, size: int, wait_s: float) -> None:
        self.now_s += wait_s
        position = self.backlog.end
        media = Media(
            position=position,
            length=1,
            time_us=position * 1000,
            data=b"x" * size,
            arrived_s=self.now_s,
            picture="picture",
        )
        self.sizes[position] = size
        self._note([gap.range for gap in self.backlog.append(media)])

    @rule(wait_s=st.floats(0, 15))
    def time_passes(self, wait_s: float) -> None:
        self.now_s += wait_s
        self._note([gap.range for gap in self.backlog.give_up_late(self.now_s, 0.0)])

    def _note(self, gaps: list[TimeRange]) -> None:
        self.gaps = merge_ranges([*self.gaps, *gaps])

    @precondition(lambda self: self.backlog.has_waiting)
    @rule()
    def take(self) -> None:
        item = self.backlog.take()
        assert item is not None
        assert item.position == self.cursor, "delivered in order, nothing left out"
        if isinstance(item, Media):
            assert len(item.data) == self.sizes[item.position]
        else:
            covered = TimeRange(item.position * 1000, (item.end - 1) * 1000 + 1)
            assert any(g.start_us <= covered.start_us and covered.end_us <= g.end_us for g in self.gaps)
        self.cursor = item.end

    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        self.safe = data.draw(st.integers(self.safe, self.cursor))
        self.backlog.taken_in(self.cursor)
        durable = data.draw(st.none() | st.integers(0, self.safe))
        front = self.backlog.front
        self.backlog.release(self.safe, self.safe * 1000, durable)
        assert durable is None or self.backlog.front <= max(front, durable), "what is not on disk is kept"

    @rule()
    def encoder_lost(self) -> None:
        start = self._item_start(max(self.safe, self.backlog.front))
        self.backlog.rewind(start)
        self.cursor = self.safe = start

    @rule(data=st.data())
    def reasoner_lost(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(self.backlog.front, max(self.cursor, self.backlog.front)))
        start = self._item_start(start)
        self.backlog.rewind(start)
        self.cursor = self.safe = start

    def _item_start(self, position: int) -> int:
        """Checkpoints lie between items: move to the start of the hole that holds `position`."""
        for queue in (self.backlog._delivered, self.backlog._waiting):
            for item in queue:
                if isinstance(item, Hole) and item.position < position < item.end:
                    return item.position
        return position

    @invariant()
    def within_bounds(self) -> None:
        assert self.backlog.bytes <= BOUNDS.max_bytes
        held = [*self.backlog._delivered, *self.backlog._waiting]
        assert self.backlog.bytes == sum(len(i.data) for i in held if isinstance(i, Media))
        positions = [(item.position, item.end) for item in held]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(positions)), positions
        if positions:
            assert positions[0][0] == self.backlog.front
            assert positions[-1][1] == self.backlog.end


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


class BytesMachine(RuleBasedStateMachine):
    """Runs of bytes cut anywhere; replay starts anywhere, also inside a run."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(Bounds(max_bytes=10_000))
        self.sent = b""
        self.got = bytearray()

    @rule(data=st.binary(min_size=1, max_size=20))
    def append(self, data: bytes) -> None:
        media = Media(position=len(self.sent), length=len(data), time_us=0, data=data, arrived_s=0.0)
        assert self.backlog.append(media) == []
        self.sent += data

    @rule()
    def take(self) -> None:
        item = self.backlog.take()
        if isinstance(item, Media):
            assert item.position == len(self.got)
            assert item.length == len(item.data)
            self.got += item.data

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(self.backlog.front, len(self.got)))
        self.backlog.rewind(start)
        del self.got[start:]

    @invariant()
    def what_arrived_is_what_was_sent(self) -> None:
        assert bytes(self.got) == self.sent[: len(self.got)]


TestBytes = BytesMachine.TestCase
TestBytes.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
