"""What a peer sends is judged before it is used: the request is refused, the link goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kv_transfer.base import LinkConfig
from kv_transfer.lanes.base import LaneBroken
from kv_transfer.lanes.loopback import LoopbackLane
from kv_transfer.lanes.meet import prove_nonce
from kv_transfer.memory import random_block
from tandem.core.errors import Incompatible, InvalidInput, PermissionRefused
from tandem.core.ids import StreamId
from tandem.core.transfer import Fetch, LaneKind, Offer
from tandem.wire.gen.tandem.v1 import transfer_pb2 as pb
from tandem.wire.transfer_messages import MAX_LANES, message_from_proto
from tests.contract.lane_pairs import LinkPair, link_pair

LOOPBACK = LinkConfig(lanes=(LaneKind.LOOPBACK,), frame_timeout_s=1.0)


async def test_an_offer_of_an_unknown_dtype_does_not_end_the_link() -> None:
    header = random_block(0).header
    bad = dataclasses.replace(header, layout=dataclasses.replace(header.layout, dtype="float8"))
    async with link_pair(LOOPBACK) as pair:
        await pair.encoder._channel.send(Offer(transfer_id=1000, headers=(bad,), timeout_s=1.0))
        await asyncio.sleep(0.1)
        assert not pair.reasoner.closed.done()
        assert len(pair.reasoner._engine._incoming) == 0


@pytest.mark.parametrize("timeout_s", [math.nan, math.inf, 1e9])
async def test_a_request_that_never_ends_is_refused(timeout_s: float) -> None:
    async with link_pair(LOOPBACK) as pair:
        block = random_block(0)
        await pair.encoder._channel.send(
            Offer(transfer_id=1000, headers=(block.header,), timeout_s=timeout_s)
        )
        await asyncio.sleep(0.1)
        assert pair.reasoner_store.reserved_bytes == 0
        pair.reasoner_store.blocks[block.key] = block
        request_id = pair.encoder._fetches.open(StreamId("stream"), [0])
        await pair.encoder._channel.send(
            Fetch(request_id=request_id, stream=StreamId("stream"), numbers=(0,), timeout_s=timeout_s)
        )
        with pytest.raises(InvalidInput):
            await pair.encoder._fetches.wait(request_id, 2.0)


async def test_a_fetch_takes_only_the_layout_of_its_model_and_a_bounded_number_of_bytes() -> None:
    right, wrong = random_block(0), random_block(1, head_dim=64)
    config = dataclasses.replace(LOOPBACK, fetch_bytes=2 * right.header.payload_bytes)
    async with link_pair(config, layout=right.header.layout) as pair:
        for block in (right, wrong, random_block(2), random_block(3)):
            pair.reasoner_store.blocks[block.key] = block
        stream = StreamId("stream")
        assert len(await pair.encoder.fetch(stream, [0, 2], timeout_s=5)) == 2
        with pytest.raises(Incompatible):
            await pair.encoder.fetch(stream, [1], timeout_s=5)
        with pytest.raises(InvalidInput, match="fetch"):
            await pair.encoder.fetch(stream, [0, 2, 3], timeout_s=5)
        assert len(await pair.encoder.fetch(stream, [3], timeout_s=5)) == 1


async def test_close_outlasts_a_lane_that_is_being_opened(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(LoopbackLane):
        """Like a Gloo pair's constructor: its wait for the peer cannot be interrupted, only runs out."""

        def open(self) -> None:
            time.sleep(0.8)
            raise LaneBroken("nobody came")

    config = dataclasses.replace(LOOPBACK, close_timeout_s=0.2, lane_open_timeout_s=0.8)
    pair = LinkPair(config, make_lane=lambda _, context: Deaf(context))
    starts = asyncio.gather(pair.encoder.start(), pair.reasoner.start(), return_exceptions=True)
    await asyncio.sleep(0.2)
    await asyncio.gather(pair.encoder.close("enough"), pair.reasoner.close("enough"))
    await starts
    assert "abandoned" not in caplog.text


def test_a_pipe_in_the_shared_directory_is_no_proof_and_holds_nobody_up(tmp_path: Path) -> None:
    name = f"tandem-{'0' * 24}.nonce"
    os.mkfifo(tmp_path / name)
    with ThreadPoolExecutor(1) as thread:
        proof = thread.submit(prove_nonce, str(tmp_path), name)
        try:
            assert proof.result(5) == b""
        finally:
            os.close(os.open(tmp_path / name, os.O_RDWR | os.O_NONBLOCK))  # whoever waits for it goes on
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(b"x" * 32)
    assert prove_nonce(str(tmp_path), name) == hashlib.sha256(b"x" * 32).digest()


async def test_no_file_is_looked_at_for_who_has_no_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ticket of another cluster: its lanes are not tried."""
    looked: list[str] = []
    monkeypatch.setattr(
        "kv_transfer.greeting.prove_nonce", lambda directory, name: looked.append(name) or b""
    )
    config = LinkConfig(lanes=(LaneKind.SHM,))
    pair = LinkPair(config)
    monkeypatch.setattr("kv_transfer.greeting.verify_ticket", lambda secret, ticket, now_s: None)
    foreign = pair.encoder._local.ticket[:-1] + bytes([pair.encoder._local.ticket[-1] ^ 1])
    pair.encoder._local = dataclasses.replace(pair.encoder._local, ticket=foreign)
    ends = await asyncio.gather(pair.encoder.start(), pair.reasoner.start(), return_exceptions=True)
    assert all(isinstance(end, PermissionRefused) for end in ends), ends
    assert looked == []


def test_a_hello_may_offer_a_few_lanes_only() -> None:
    offers = [pb.LaneOffer(kind=pb.LANE_KIND_GLOO)] * (MAX_LANES + 1)
    with pytest.raises(InvalidInput, match="lanes"):
        message_from_proto(pb.ControlMessage(hello=pb.Hello(lanes=offers)))
    assert message_from_proto(pb.ControlMessage(hello=pb.Hello(lanes=offers[1:])))
