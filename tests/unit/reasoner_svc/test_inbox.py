"""Landing and publication, with a recorder in place of the engine."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from kv_transfer.block import Block
from reasoner_svc.changes import Changes
from reasoner_svc.inbox import Inbox, LinkInbox
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.ram import RamTier
from reasoner_svc.streams import Streams
from tandem.core.blocks import BlockGeometry, BlockHeader, BlockKey, KVLayout
from tandem.core.errors import (
    DataLost,
    Incompatible,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    WrongState,
)
from tandem.core.ids import Epoch, StreamId
from tandem.core.timeline import TimeRange
from tests.unit.reasoner_svc.making import FINGERPRINT, LAYOUT, SECOND_US, make_block, make_header

CAM = StreamId("cam")
BLOCK_BYTES = make_header(1).payload_bytes


class Recorder:
    """What the device side was told. Blocks stay pinned until `settle`."""

    def __init__(self) -> None:
        self.fed: list[int] = []
        self.forgotten: list[int] = []
        self.opened: list[int] = []
        self.closed: list[int] = []
        self._done: list[Callable[[], None]] = []

    def open_run(self, run: int, stream: StreamId) -> None:
        self.opened.append(run)

    def feed(self, run: int, block: Block, done: Callable[[], None]) -> None:
        self.fed.append(block.key.number)
        self._done.append(done)

    def forget_before(self, run: int, number: int) -> None:
        self.forgotten.append(number)

    def close_run(self, run: int) -> None:
        self.closed.append(run)

    def settle(self) -> None:
        for done in self._done:
            done()
        self._done.clear()


class TinyPrompt:
    """Only what the inbox asks a prompt layout."""

    def sink_tokens(self) -> list[int]:
        return [1, 2, 3, 4]

    def geometry(self, grid: tuple[int, int, int]) -> BlockGeometry:
        return BlockGeometry(text_before=0, grid_t=grid[0], grid_h=grid[1], grid_w=grid[2], text_after=0)


class Setup:
    def __init__(self, blocks_of_ram: int = 100) -> None:
        budget = blocks_of_ram * BLOCK_BYTES
        self.tier = RamTier(budget, slab_bytes=budget)
        self.store = BlockStore(self.tier)
        self.streams = Streams()
        self.changes = Changes()
        self.runs = Recorder()
        self.inbox = Inbox(
            store=self.store,
            streams=self.streams,
            changes=self.changes,
            runs=self.runs,
            fingerprint=FINGERPRINT,
            layout=LAYOUT,
            prompt=TinyPrompt(),  # type: ignore[arg-type]
            post=lambda call: call(),
        )
        self.link = self.new_link()

    def new_link(self, encoder: str = "encoder-0") -> LinkInbox:
        return LinkInbox(self.inbox, lambda: encoder)

    def open(self, epoch: int = 1, stream: str = "cam", encoder: str = "") -> None:
        self.inbox.open_stream(StreamId(stream), Epoch(epoch), encoder)

    def publish(self, *numbers: int, stream: str = "cam") -> None:
        for number in numbers:
            block = make_block(number, stream=stream)
            buffer = self.link.reserve(block.header)
            buffer.copy_(block.payload)
            self.link.publish(block.header, buffer)
            self.runs.settle()
            self.store.check_integrity()


@pytest.fixture
def setup() -> Setup:
    made = Setup()
    made.open()
    return made


def test_blocks_are_fed_in_order_whatever_the_order_of_landing(setup: Setup) -> None:
    headers = [make_header(number) for number in range(4)]
    buffers = [setup.link.reserve(header) for header in headers]
    for number in (2, 0, 3, 1):
        setup.link.publish(headers[number], buffers[number])
    assert setup.runs.fed == [0, 1, 2, 3]
    assert setup.link.arriving == 0


def test_nothing_is_visible_before_it_is_complete(setup: Setup) -> None:
    sink = make_header(0)
    buffer = setup.link.reserve(sink)
    assert setup.runs.fed == []
    assert not setup.link.have(sink.key, sink.layer_checksums)
    with pytest.raises(DataLost):
        setup.link.read(CAM, [0])
    setup.link.publish(sink, buffer)
    assert setup.runs.fed == [0]
    assert setup.link.have(sink.key, sink.layer_checksums)


def test_a_fed_block_is_pinned_until_it_stands_on_the_device() -> None:
    setup = Setup(blocks_of_ram=3)
    setup.open()
    for number in range(3):
        header = make_header(number)
        setup.link.publish(header, setup.link.reserve(header))
    with pytest.raises(LimitExceeded) as full:
        setup.link.reserve(make_header(3))
    assert full.value.retry_after_s
    setup.runs.settle()
    setup.link.reserve(make_header(3))
    assert setup.runs.forgotten == [2]


def test_what_came_twice_is_not_taken_twice(setup: Setup) -> None:
    setup.publish(0, 1)
    block = make_block(1)
    assert setup.link.have(block.key, block.header.layer_checksums)
    assert not setup.link.have(block.key, (1, 2))
    with pytest.raises(InvalidInput, match="other bytes"):
        setup.link.reserve(make_header(1))


def test_the_same_block_over_two_links_waits_for_the_first(setup: Setup) -> None:
    sink = make_header(0)
    buffer = setup.link.reserve(sink)
    other = setup.new_link()
    with pytest.raises(LimitExceeded):
        other.reserve(sink)
    setup.link.release(sink, buffer)
    other.publish(sink, other.reserve(sink))
    assert setup.runs.fed == [0]


def test_room_is_given_in_order(setup: Setup) -> None:
    with pytest.raises(LimitExceeded, match="earlier block"):
        setup.link.reserve(make_header(1))


def test_eviction_is_reported_by_time_and_reaches_the_device() -> None:
    setup = Setup(blocks_of_ram=4)
    setup.open()
    setup.publish(*range(7))
    record = setup.streams.get(CAM)
    assert record.evicted == [TimeRange(0, 3 * SECOND_US)]
    assert (record.blocks, record.frontier.next, record.watermark_us) == (3, 7, 6 * SECOND_US)
    assert setup.runs.forgotten == [2, 3, 4]
    assert setup.store.ram_allocated_bytes == 4 * BLOCK_BYTES
    gone = make_block(1)
    assert setup.link.have(gone.key, gone.header.layer_checksums), "it was published once"
    with pytest.raises(DataLost):
        setup.link.read(CAM, [1])


def test_lent_blocks_stay_for_as_long_as_they_are_held() -> None:
    setup = Setup(blocks_of_ram=3)
    setup.open()
    setup.publish(0, 1, 2)
    lent = setup.link.read(CAM, [1, 2])
    assert [block.key.number for block in lent] == [1, 2]
    payload = lent[0].payload.clone()
    with pytest.raises(LimitExceeded):
        setup.link.reserve(make_header(3))
    assert bool((lent[0].payload == payload).all())
    del lent
    gc.collect()
    setup.link.reserve(make_header(3))
    setup.store.check_integrity()


def test_reading_is_all_or_nothing(setup: Setup) -> None:
    setup.publish(0, 1)
    with pytest.raises(DataLost):
        setup.link.read(CAM, [1, 2])
    with pytest.raises(NotFound):
        setup.link.read(StreamId("other"), [0])
    entry = setup.store.directory.find(BlockKey(CAM, 1))
    assert entry is not None
    assert entry.pins == 0


def test_a_released_block_leaves_no_trace(setup: Setup) -> None:
    sink = make_header(0)
    setup.link.release(sink, setup.link.reserve(sink))
    assert setup.store.ram_allocated_bytes == 0
    setup.publish(0)


def test_a_greater_epoch_voids_what_is_not_visible(setup: Setup) -> None:
    setup.publish(0)
    headers = [make_header(number) for number in (1, 2)]
    buffers = [setup.link.reserve(header) for header in headers]
    setup.link.publish(headers[1], buffers[1])
    setup.open(epoch=2)
    with pytest.raises(WrongState):
        setup.link.publish(headers[0], buffers[0])
    setup.link.release(headers[0], buffers[0])
    assert setup.streams.get(CAM).frontier.next == 1
    setup.publish(1, 2)
    assert setup.runs.fed == [0, 1, 2]
    assert setup.store.directory.orphans == 0


def test_an_older_epoch_is_refused(setup: Setup) -> None:
    setup.open(epoch=5)
    with pytest.raises(WrongState, match="out of date"):
        setup.open(epoch=4)
    setup.open(epoch=5)


def test_a_replaced_encoder_is_refused(setup: Setup) -> None:
    setup.open(epoch=2, encoder="encoder-1")
    with pytest.raises(WrongState, match="placed on encoder encoder-1"):
        setup.link.reserve(make_header(0))
    setup.new_link("encoder-1").reserve(make_header(0))


def test_closing_a_stream_frees_all_of_it_and_nothing_of_others(setup: Setup) -> None:
    setup.open(stream="other")
    setup.publish(0, 1)
    setup.publish(0, 1, stream="other")
    travelling = make_header(2)
    buffer = setup.link.reserve(travelling)
    setup.inbox.close_stream(CAM)
    setup.inbox.close_stream(CAM)
    assert setup.store.directory.stream_bytes(CAM).held == 0
    assert setup.runs.closed == [1]
    with pytest.raises(WrongState):
        setup.link.publish(travelling, buffer)
    setup.link.release(travelling, buffer)
    assert setup.store.ram_used_bytes == 2 * BLOCK_BYTES
    with pytest.raises(NotFound):
        setup.link.reserve(travelling)


def test_a_stream_that_is_opened_again_begins_anew(setup: Setup) -> None:
    setup.publish(0, 1)
    setup.inbox.close_stream(CAM)
    setup.open()
    assert setup.runs.opened == [1, 2]
    setup.publish(0, 1)
    assert setup.streams.get(CAM).blocks == 1


def test_room_that_a_hanging_link_never_released_is_not_used_again(setup: Setup) -> None:
    sink = make_header(0)
    setup.link.reserve(sink)
    setup.link.close()
    assert setup.store.ram_used_bytes == BLOCK_BYTES
    setup.link = setup.new_link()
    setup.publish(0)
    assert setup.store.ram_used_bytes == 2 * BLOCK_BYTES
    assert setup.store.directory.orphans == 1


def foreign(header: BlockHeader, **changes: object) -> BlockHeader:
    fields = {name: getattr(header, name) for name in BlockHeader.__dataclass_fields__}
    return BlockHeader(**{**fields, **changes})  # type: ignore[arg-type]


def test_blocks_that_cannot_be_are_refused(setup: Setup) -> None:
    for header, error in (
        (make_header(0, stream="unknown"), NotFound),
        (foreign(make_header(0), fingerprint="f" * 32), Incompatible),
        (
            foreign(make_header(0), layout=KVLayout(layers=1, kv_heads=2, head_dim=8, dtype="float32")),
            Incompatible,
        ),
        (foreign(make_header(1), key=BlockKey(CAM, 0)), InvalidInput),
        (foreign(make_header(0), key=BlockKey(CAM, 1)), InvalidInput),
        (make_header(0, tokens=3), InvalidInput),
    ):
        with pytest.raises(error):
            setup.link.reserve(header)
    assert setup.store.ram_used_bytes == 0


def test_a_block_in_a_foreign_buffer_is_never_published(setup: Setup) -> None:
    header = make_header(0)
    buffer = setup.link.reserve(header)
    with pytest.raises(Internal, match="foreign"):
        setup.link.publish(header, buffer.clone())
    assert setup.runs.fed == []
    setup.link.publish(header, buffer)
    assert setup.runs.fed == [0]
