"""A stream's blocks come from another reasoner: all of them, some of them, or it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from kv_transfer.base import LinkConfig
from kv_transfer.block import Block
from kv_transfer.faulty import Fault, FaultyMaker, Mischief
from kv_transfer.link import Link
from kv_transfer.memory import DictStore
from reasoner_svc.changes import Changes
from reasoner_svc.inbox import Inbox
from reasoner_svc.moving import Here as HereEnd
from reasoner_svc.moving import Mover, bring_all, bring_notes
from reasoner_svc.notes.keeping import NoteKeeper
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.ram import RamTier
from reasoner_svc.streams import StreamRecord, Streams
from tandem.core.clock import monotonic_clock
from tandem.core.errors import DataLost, NotFound, Unavailable
from tandem.core.ids import Epoch, StreamId
from tandem.core.telemetry import Telemetry
from tandem.core.transfer import Direction, LaneKind
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import reasoner_pb2, transfer_pb2_grpc
from tandem.wire.transfer import ServerControlChannel
from tests.contract.lane_pairs import make_end, make_ticket
from tests.contract.recording import Recorder as Meters
from tests.unit.reasoner_svc.making import FINGERPRINT, LAYOUT, make_block, make_header
from tests.unit.reasoner_svc.test_inbox import Recorder

CAM = StreamId("cam")
BLOCK_BYTES = make_header(1).payload_bytes


class Holder:
    """Another reasoner that holds these numbers."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.held = set(numbers)
        self.asked = 0
        self.dies_at: int | None = None

    async def fetch(self, stream: StreamId, numbers: Sequence[int], *, timeout_s: float) -> list[Block]:
        self.asked += 1
        if self.dies_at is not None and self.dies_at in numbers:
            raise Unavailable("it died")
        if not self.held.issuperset(numbers):
            raise DataLost("not held")
        return [make_block(number) for number in numbers]


class LendsNone(Holder):
    async def fetch(self, stream: StreamId, numbers: Sequence[int], *, timeout_s: float) -> list[Block]:
        raise NotFound(f"no stream {stream}")


class Here:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, blocks: int = 1000) -> None:
        monkeypatch.setattr("reasoner_svc.inbox.is_fitting", lambda prompt, header: True)
        self.store = BlockStore(RamTier(blocks * BLOCK_BYTES))
        self.runs = Recorder()
        self.inbox = Inbox(
            store=self.store,
            streams=Streams(),
            changes=Changes(),
            runs=self.runs,  # type: ignore[arg-type]
            fingerprint=FINGERPRINT,
            layout=LAYOUT,
            prompt=None,  # type: ignore[arg-type]
            post=lambda call: call(),
        )
        self.record: StreamRecord = self.inbox.open_stream(CAM, Epoch(1), "encoder-0")

    async def bring(self, holder: Holder, end: int) -> None:
        held = len(holder.held - {0})
        await bring_all(self.inbox, holder, self.record, end, held, "encoder-0", monotonic_clock)


async def test_every_block_is_published_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    here, holder = Here(monkeypatch), Holder(range(40))
    await here.bring(holder, 40)
    assert here.runs.fed == list(range(40))
    assert here.record.frontier.next == 40
    assert here.record.watermark_us == make_header(39).time.end_us
    assert holder.asked <= 6


async def test_what_was_evicted_there_is_found_by_halves_and_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, holder = Here(monkeypatch), Holder([0, *range(700, 1000)])
    await here.bring(holder, 1000)
    assert here.runs.fed == [0, *range(700, 1000)]
    assert here.record.frontier.next == 1000
    assert holder.asked < 40


async def test_holes_in_between_and_a_lost_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    here, holder = Here(monkeypatch), Holder([2, 4, 9])
    await here.bring(holder, 11)
    assert here.runs.fed == [2, 4, 9]
    assert here.record.frontier.next == 11


async def test_nothing_left_there_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here(monkeypatch)
    await here.bring(Holder([]), 9)
    assert here.runs.fed == []
    assert here.record.frontier.next == 9


async def test_the_newest_notes_are_brought_and_holes_left_out() -> None:
    """Each has as many tokens as a block of `make_block`."""
    tokens, holder = make_block(1).header.tokens, Holder([3, 5, 40, 41, 43])
    numbers = [note.key.number for note in await bring_notes(holder, CAM, 44, 10 * tokens)]
    assert numbers == [40, 41, 43], "behind a batch of which nothing is held nothing more is looked for"
    numbers = [note.key.number for note in await bring_notes(holder, CAM, 44, 2 * tokens)]
    assert numbers == [41, 43]
    numbers = [note.key.number for note in await bring_notes(holder, CAM, 44, 0)]
    assert numbers == [43], "the newest in any case"
    assert await bring_notes(Holder([]), CAM, 500, tokens) == []
    assert await bring_notes(LendsNone([]), CAM, 500, tokens) == [], "of a release before this one"


async def test_a_loss_on_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here, holder = Here(monkeypatch), Holder(range(100))
    holder.dies_at = 50
    with pytest.raises(Unavailable):
        await here.bring(holder, 100)
    assert here.record.frontier.next < 50


class Leaving(transfer_pb2_grpc.TransferServiceServicer):
    """A reasoner that leaves, at the end of a wire that turns a bit of the first frame."""

    def __init__(self, config: LinkConfig, blocks: Sequence[Block]) -> None:
        self._config, self._store = config, DictStore()
        self._store.blocks = {block.key: block for block in blocks}

    async def Connect(self, request_iterator: object, context: Any) -> None:
        link = Link(
            ServerControlChannel(context),
            hello=make_end("reasoner-0", fingerprint=FINGERPRINT),
            sink=self._store,
            source=self._store,
            config=self._config,
            initiator=False,
            make_lane=FaultyMaker([Fault(at_frame=0, what=Mischief.CORRUPT)], Direction.REVERSE),
        )
        try:
            await link.start()
            await asyncio.shield(link.closed)
        finally:
            await link.close("over")


async def test_what_is_damaged_on_the_way_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    here, meters = Here(monkeypatch), Meters()
    config = LinkConfig(lanes=(LaneKind.SHM, LaneKind.GLOO), frame_timeout_s=1.0)
    server = make_server()
    leaving = Leaving(config, [make_block(number) for number in range(5)])
    transfer_pb2_grpc.add_TransferServiceServicer_to_server(leaving, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        local = make_end("reasoner-1", fingerprint=FINGERPRINT, layout=LAYOUT)
        source = reasoner_pb2.OpenStreamRequest.Source(
            name="reasoner-0",
            address=address,
            ticket=make_ticket(encoder_id="reasoner-1"),
            next_block_number=5,
            blocks=4,
        )
        end = HereEnd(local=local, config=config, telemetry=Telemetry(meters))
        mover = Mover(here.inbox, end, NoteKeeper(here.store, None, None, lambda headers: None, 0), 0)  # type: ignore[arg-type]
        await mover.bring(here.record, source, "encoder-0")
    finally:
        await server.stop(0.5)
    assert here.runs.fed == list(range(5))
    assert meters.counts["tandem_kv_checksum_failures_total", ("wire",)] >= 1
