"""The store against a naive model: a dictionary of what should be held, checked after every step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from reasoner_svc.store.directory import BlockState
from reasoner_svc.store.plans import Landing, LoadTicket, StorePlan
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.ram import RamTier
from tandem.core.blocks import BlockHeader, BlockKey, BlockKind
from tandem.core.errors import AlreadyExists, DataLost, LimitExceeded
from tandem.core.ids import StreamId
from tests.unit.reasoner_svc.making import make_header

BUDGET = 24 * 1024
STREAMS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 6)
TOKENS = st.sampled_from([1, 3, 8, 20])


class StoreMachine(RuleBasedStateMachine):
    writing = Bundle("writing")
    reading = Bundle("reading")

    def __init__(self) -> None:
        super().__init__()
        self.tier = RamTier(BUDGET, slab_bytes=8 * 1024)
        self.store = BlockStore(self.tier)
        self.held: dict[BlockKey, tuple[BlockHeader, BlockState]] = {}
        self.pins: dict[BlockKey, int] = {}
        self.fill: dict[int, int] = {}
        """First byte of each block, by its entry's order of arrival."""
        self.open_writes = 0
        self.open_reads = 0

    @rule(target=writing, stream=STREAMS, number=NUMBERS, tokens=TOKENS)
    def prepare_store(self, stream: str, number: int, tokens: int) -> object:
        header = make_header(number, stream=stream, tokens=tokens)
        before = dict(self.held)
        try:
            plan = self.store.prepare_store(header)
        except AlreadyExists:
            assert before[header.key][1] is not BlockState.LANDING
            return multiple()
        except LimitExceeded:
            if header.key in before:
                assert before[header.key][1] is BlockState.LANDING
            return multiple()
        assert header.key not in before
        for gone in plan.evicted:
            known, state = self.held.pop(gone.key)
            assert known == gone
            assert state is BlockState.PUBLISHED
            assert gone.kind is not BlockKind.SINK
            assert not self.pins.get(gone.key)
        assert plan.buffer.shape == (header.payload_bytes,)
        self.fill[plan.entry.sequence] = (plan.entry.sequence * 37 + 1) % 251
        plan.buffer.fill_(self.fill[plan.entry.sequence])
        self.held[header.key] = (header, BlockState.LANDING)
        self.open_writes += 1
        return plan

    @rule(plan=consumes(writing), landing=st.sampled_from(Landing))
    def complete_store(self, plan: StorePlan, landing: Landing) -> None:
        self.open_writes -= 1
        removed = plan.entry.removed
        self.store.complete_store(plan.entry, landing)
        if removed:
            return
        if landing is Landing.LANDED:
            self.held[plan.entry.key] = (plan.entry.header, BlockState.LANDED)
        else:
            del self.held[plan.entry.key]

    @precondition(lambda self: any(state is BlockState.LANDED for _, state in self.held.values()))
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        landed = sorted(key for key, (_, state) in self.held.items() if state is BlockState.LANDED)
        key = data.draw(st.sampled_from(landed))
        self.store.publish(key)
        self.held[key] = (self.held[key][0], BlockState.PUBLISHED)

    @rule(target=reading, stream=STREAMS, numbers=st.lists(NUMBERS, min_size=1, max_size=3, unique=True))
    def prepare_load(self, stream: str, numbers: list[int]) -> object:
        keys = [BlockKey(StreamId(stream), number) for number in numbers]
        readable = all(key in self.held and self.held[key][1] is BlockState.PUBLISHED for key in keys)
        try:
            ticket = self.store.prepare_load(keys)
        except DataLost:
            assert not readable
            return multiple()
        assert readable
        for key in keys:
            self.pins[key] = self.pins.get(key, 0) + 1
        self.open_reads += 1
        return ticket

    @rule(ticket=reading)
    def read(self, ticket: LoadTicket) -> None:
        """Pinned bytes never change, whatever was evicted, dropped or written meanwhile."""
        for entry, block in zip(ticket.entries, ticket.blocks, strict=True):
            if entry.pins:
                assert bool((block.payload == self.fill[entry.sequence]).all())

    @rule(ticket=consumes(reading))
    def complete_load(self, ticket: LoadTicket) -> None:
        self.open_reads -= 1
        for entry in ticket.entries:
            if not entry.removed:
                self.pins[entry.key] -= 1
        self.store.complete_load(ticket)

    @rule(stream=STREAMS)
    def drop_stream(self, stream: str) -> None:
        self.store.drop_stream(StreamId(stream))
        for key in [key for key in self.held if key.stream == stream]:
            del self.held[key]
            self.pins.pop(key, None)
        assert self.store.directory.stream_bytes(StreamId(stream)).held == 0

    @rule(stream=STREAMS)
    def drop_hidden(self, stream: str) -> None:
        self.store.drop_hidden(StreamId(stream))
        for key, (_, state) in list(self.held.items()):
            if key.stream == stream and state is not BlockState.PUBLISHED:
                del self.held[key]

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.store.check_integrity()
        assert len(self.store.directory) == len(self.held)
        for key, (header, state) in self.held.items():
            entry = self.store.directory.find(key)
            assert entry is not None
            assert (entry.header, entry.state) == (header, state)
            assert entry.pins == self.pins.get(key, 0)
        for stream in "abc":
            held = sum(header.payload_bytes for key, (header, _) in self.held.items() if key.stream == stream)
            assert self.store.directory.stream_bytes(StreamId(stream)).held == held

    @invariant()
    def keeps_its_budget(self) -> None:
        assert self.tier.allocated_bytes <= BUDGET
        assert self.tier.used_bytes <= self.tier.allocated_bytes

    @invariant()
    def nothing_is_leaked(self) -> None:
        if not self.open_writes and not self.open_reads:
            assert self.store.directory.orphans == 0
            assert self.tier.used_bytes == sum(header.payload_bytes for header, _ in self.held.values())


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStore = StoreMachine.TestCase
