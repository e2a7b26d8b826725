"""A stream's blocks come from another reasoner: all of them, some of them, or it fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kv_transfer.block import Block
from reasoner_svc.changes import Changes
from reasoner_svc.inbox import Inbox
from reasoner_svc.moving import bring_all
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.ram import RamTier
from reasoner_svc.streams import StreamRecord, Streams
from tandem.core.clock import monotonic_clock
from tandem.core.errors import DataLost, Unavailable
from tandem.core.ids import Epoch, StreamId
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


async def test_a_loss_on_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here, holder = Here(monkeypatch), Holder(range(100))
    holder.dies_at = 50
    with pytest.raises(Unavailable):
        await here.bring(holder, 100)
    assert here.record.frontier.next < 50
