"""The disk tier as its users see it: append, sync, take up again, read, refuse."""

from __future__ import annotations

import multiprocessing
import os
import struct
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kv_transfer.block import BlockCorrupt, seal_block
from reasoner_svc.store.disk.errors import DiskFull, StreamHeld
from reasoner_svc.store.disk.slots import Fsync, FsyncPolicy
from tandem.core.blocks import Codec
from tandem.core.clock import ManualClock
from tandem.core.errors import (
    AlreadyExists,
    DataLost,
    Incompatible,
    InvalidInput,
    NotFound,
    TandemError,
    WrongState,
)
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tests.unit.reasoner_svc.making import LAYOUT, make_block
from tests.unit.reasoner_svc.store_disk.disk_making import CAM, item, items, make_store

SECOND = 1_000_000


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store.open(CAM).durable == -1
    written = items(0, 12)
    slots = store.append(CAM, written[:5]) + store.append(CAM, written[5:])
    assert store.sync(CAM) == 11
    store.close_all()
    found = make_store(tmp_path).open(CAM)
    assert found.headers == [block.header for block, _ in written]
    assert found.slots == slots
    assert torch.equal(found.representatives, torch.stack([reps for _, reps in written]))
    assert (found.durable, found.missing, found.aside) == (11, (), ())


def test_embeddings_and_codecs_are_found_again(tmp_path: Path) -> None:
    """From the catalogue, and from the data files alone when it is gone."""
    embedding = struct.pack("<3e", 0.6, 0.0, -0.8)
    written = items(0, 3)
    for number, codec in enumerate(Codec):
        block = make_block(4 + number)
        embedded = {"embedding": embedding, "embedder": "00fedcba98765432"} if number % 2 else {}
        header = replace(block.header, codec=codec, **embedded)  # type: ignore[arg-type]
        payload = torch.arange(header.payload_bytes, dtype=torch.int64).to(torch.uint8)
        written.append((seal_block(header, payload), item(4 + number)[1]))
    store = make_store(tmp_path)
    store.open(CAM)
    slots = store.append(CAM, written)
    store.sync(CAM)
    store.close_all()
    for damage in (False, True):
        if damage:
            next(tmp_path.glob("*/catalogue.sqlite")).unlink()
        store = make_store(tmp_path)
        found = store.open(CAM)
        assert found.headers == [block.header for block, _ in written]
        assert found.slots == slots
        for (block, _), slot, header in zip(written, slots, found.headers, strict=True):
            assert torch.equal(store.read(slot, header), block.payload)
        store.close_all()


def test_headers_share_what_they_have_in_common(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    store.append(CAM, items(1, 3))
    store.close_all()
    first, second = make_store(tmp_path).open(CAM).headers
    assert first.geometry is second.geometry
    assert first.layout is second.layout
    assert first.key.stream is second.key.stream


def test_reads_blocks_layers_and_many(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    written = items(0, 12)
    slots = store.append(CAM, written)
    block = written[7][0]
    assert torch.equal(store.read(slots[7], block.header), block.payload)
    layer_bytes = LAYOUT.layer_bytes(4)
    assert torch.equal(store.read(slots[7], block.header, range(1, 2)), block.payload[layer_bytes:])
    out = torch.zeros(5000, dtype=torch.uint8)
    read = store.read(slots[7], block.header, out=out)
    assert read.data_ptr() == out.data_ptr()
    wants = [(slots[n], written[n][0].header) for n in (11, 0, 3, 3, 4, 8)]
    store.will_need(wants, 0)
    for layer in range(2):
        parts = store.read_layer_many(wants, layer)
        for part, n in zip(parts, (11, 0, 3, 3, 4, 8), strict=True):
            expected = written[n][0].payload[layer * layer_bytes : (layer + 1) * layer_bytes]
            assert isinstance(part, torch.Tensor)
            assert torch.equal(part, expected)


def test_large_blocks_are_hashed_as_they_are_read(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    block = make_block(1, tokens=6000)
    [slot] = store.append(CAM, [(block, item(1)[1])])
    assert block.header.payload_bytes > 2 * 512 * 1024
    assert torch.equal(store.read(slot, block.header), block.payload)
    _flip(store_file(tmp_path, slot.file), slot.start + slot.length - 1)
    with pytest.raises(BlockCorrupt) as caught:
        store.read(slot, block.header)
    assert caught.value.layers == (1,)


def store_file(root: Path, number: int) -> Path:
    return root / "s-cam" / f"{number:08d}.tkv"


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_a_miss_of_one_block(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    written = items(1, 5)
    slots = store.append(CAM, written)
    _flip(store_file(tmp_path, slots[1].file), slots[1].start)
    with pytest.raises(BlockCorrupt):
        store.read(slots[1], written[1][0].header)
    parts = store.read_layer_many([(s, b.header) for s, (b, _) in zip(slots, written, strict=True)], 0)
    assert [isinstance(part, BlockCorrupt) for part in parts] == [False, True, False, False]
    store.give_up(CAM, 2, 3, "damaged", TimeRange(SECOND, 2 * SECOND))
    assert store.missing(CAM)[0].reason == "damaged"
    store.append(CAM, [item(2)])
    assert store.missing(CAM) == ()
    assert store.sync(CAM) == -1, "the sink was never written"


def test_a_number_is_held_once(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    store.append(CAM, items(0, 3))
    with pytest.raises(AlreadyExists):
        store.append(CAM, [item(3), item(2)])
    with pytest.raises(AlreadyExists):
        store.append(CAM, [item(4), item(4)])
    assert store.sync(CAM) == 2, "nothing of a refused batch is written"


def test_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    store = make_store(tmp_path, fingerprint="f" * 32)
    store.open(CAM)
    with pytest.raises(Incompatible):
        store.append(CAM, [item(1)])
    store = make_store(tmp_path / "other")
    store.open(CAM)
    with pytest.raises(InvalidInput):
        store.append(CAM, [(item(1)[0], torch.zeros(3, 16))])
    with pytest.raises(InvalidInput):
        store.append(CAM, [item(1, stream="elsewhere")])
    for name in ("..", ".", "", "a/b"):
        with pytest.raises(TandemError):
            store.open(StreamId(name))
    with pytest.raises(WrongState):
        store.append(StreamId("closed"), [item(1)])


def test_a_hole_holds_the_durable_number_back_until_it_is_given_up(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    store.append(CAM, [item(0), item(1), item(4)])
    assert store.sync(CAM) == 1
    store.give_up(CAM, 2, 4, "never written")
    assert store.sync(CAM) == 4
    store.close_all()
    found = make_store(tmp_path).open(CAM)
    assert [(m.first, m.end, m.time) for m in found.missing] == [(2, 4, TimeRange(SECOND, 3 * SECOND))]


def test_interval_syncs_when_it_is_due(tmp_path: Path) -> None:
    clock = ManualClock(10.0)
    store = make_store(tmp_path, fsync=FsyncPolicy(Fsync.INTERVAL, 1.0), clock=clock)
    store.open(CAM)
    store.append(CAM, items(0, 2))
    assert store.durable(CAM) == -1
    assert store.sync_due(10.5) == {}
    assert store.sync_due(11.0) == {CAM: 1}
    assert store.sync_due(20.0) == {}


def test_always_is_durable_on_return(tmp_path: Path) -> None:
    store = make_store(tmp_path, fsync=FsyncPolicy(Fsync.ALWAYS))
    store.open(CAM)
    store.append(CAM, items(0, 2))
    assert store.durable(CAM) == 1


def test_one_process_has_a_stream(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    with pytest.raises(WrongState):
        store.open(CAM)
    other = make_store(tmp_path)
    with pytest.raises(StreamHeld):
        other.open(CAM)
    with pytest.raises(StreamHeld):
        other.delete(CAM)
    store.close(CAM)
    assert other.open(CAM).durable == -1


def _hold(root: Path, ready: object, leave: object) -> None:
    make_store(root).open(CAM)
    ready.set()  # type: ignore[attr-defined]
    leave.wait(30)  # type: ignore[attr-defined]
    os._exit(0)


def test_another_process_takes_a_stream_up_when_its_owner_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, leave))
    process.start()
    assert ready.wait(30)
    with pytest.raises(StreamHeld):
        make_store(tmp_path).open(CAM)
    leave.set()
    process.join(30)
    assert make_store(tmp_path).open(CAM).durable == -1


def test_deleting_really_deletes(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    written = items(0, 8)
    slots = store.append(CAM, written)
    store.read(slots[3], written[3][0].header)
    store.delete(CAM)
    assert list(tmp_path.iterdir()) == []
    assert store.used_bytes == 0
    for slot in (slots[3], slots[0]):
        with pytest.raises(DataLost):
            store.read(slot, written[slots.index(slot)][0].header)
    with pytest.raises(NotFound):
        store.delete(CAM)
    assert store.open(CAM).headers == []


def test_an_interrupted_deletion_is_finished_at_the_next_start(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    store.append(CAM, items(0, 2))
    store.close_all()
    (tmp_path / "s-cam").rename(tmp_path / "gone-1-abc-s-cam")
    store = make_store(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert store.streams() == []


def test_readers_of_a_deleted_stream_get_the_right_bytes_or_none(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.open(CAM)
    written = items(0, 20)
    slots = store.append(CAM, written)
    outcomes: list[bool] = []
    started = threading.Event()

    def read() -> None:
        while True:
            for slot, (block, _) in zip(slots, written, strict=True):
                try:
                    outcomes.append(torch.equal(store.read(slot, block.header), block.payload))
                except DataLost:
                    return
                started.set()

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(30)
    store.delete(CAM)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert all(outcomes)


def test_descriptors_are_bounded(tmp_path: Path) -> None:
    store = make_store(tmp_path, max_handles=2)
    store.open(CAM)
    written = items(1, 40)
    slots = store.append(CAM, written)
    assert len({slot.file for slot in slots}) > 6
    before = len(os.listdir("/proc/self/fd"))
    for slot, (block, _) in zip(slots, written, strict=True):
        assert torch.equal(store.read(slot, block.header), block.payload)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_over_budget_nothing_is_written(tmp_path: Path) -> None:
    store = make_store(tmp_path, budget_bytes=5000)
    store.open(CAM)
    with pytest.raises(DiskFull) as caught:
        store.append(CAM, items(0, 10))
    assert caught.value.stored == ()
    assert store.used_bytes == 0
