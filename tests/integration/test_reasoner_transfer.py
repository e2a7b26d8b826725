"""Blocks over real links: gRPC control stream, real lanes, tickets, epochs."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from kv_transfer.base import LinkConfig, LocalEnd, Outcome
from kv_transfer.block import Block
from kv_transfer.link import Link
from tandem.core.errors import Incompatible, NotFound, PermissionRefused, TandemError, Unavailable, WrongState
from tandem.core.ids import Epoch, StreamId
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.transfer import LaneKind
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.transfer import ClientControlChannel
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import SECRET, Serving, serve

UNITS = 5
CAM = StreamId("cam")


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


class NoSink:
    """An encoder's end takes nothing that it did not ask for."""

    def have(self, key: object, layer_checksums: object) -> bool:
        return False

    def reserve(self, header: object) -> torch.Tensor:
        raise WrongState("an encoder takes no blocks")

    def publish(self, header: object, buffer: torch.Tensor) -> None: ...

    def release(self, header: object, buffer: torch.Tensor) -> None: ...


def ticket(epoch: int, *, secret: bytes = SECRET, reasoner: str = "reasoner-0") -> bytes:
    return sign_ticket(
        secret,
        Ticket(
            pair_id="encoder-0.reasoner-0",
            epoch=Epoch(epoch),
            encoder_id="encoder-0",
            reasoner_id=reasoner,
            not_after_unix_s=int(time.time()) + 60,
            nonce=secrets.token_bytes(16),
        ),
    )


def link_to(
    s: Serving,
    model: VisionLanguageModel,
    signed: bytes,
    *,
    lane: LaneKind = LaneKind.SHM,
    fingerprint: str = "",
) -> Link:
    local = LocalEnd(
        node_id="encoder-0",
        fingerprint=fingerprint or model.fingerprint,
        boot_id=secrets.token_hex(4),
        cluster_secret=SECRET,
        ticket=signed,
    )
    return Link(
        ClientControlChannel(s.channel),
        hello=local,
        sink=NoSink(),
        source=None,
        config=LinkConfig(lanes=(lane,)),
        initiator=True,
    )


@asynccontextmanager
async def connected(
    s: Serving, model: VisionLanguageModel, epoch: int = 1, lane: LaneKind = LaneKind.SHM
) -> AsyncIterator[Link]:
    async with link_to(s, model, ticket(epoch), lane=lane) as link:
        await s.until(lambda: s.reasoner.transfer.links > 0)  # a moment after the encoder's end
        yield link


@pytest.mark.parametrize("lane", [LaneKind.SHM, LaneKind.GLOO])
async def test_answers_over_sent_blocks_equal_answers_over_local_ones(
    model: VisionLanguageModel, blocks: list[Block], lane: LaneKind
) -> None:
    async with serve(model) as s:
        await s.open("local")
        s.publish(*encode_clip(model, make_frames(model, UNITS), "local"))
        expected = await s.ask(stream="local", max_tokens=30)
        await s.open()
        async with connected(s, model, lane=lane) as link:
            results = await link.send(blocks, timeout_s=20.0)
            assert [result.outcome for result in results] == [Outcome.PUBLISHED] * len(blocks)
            said = await s.ask(max_tokens=30)
            assert said.tokens == expected.tokens
            again = await link.send(blocks, timeout_s=20.0)
            assert [result.outcome for result in again] == [Outcome.HAVE] * len(blocks)
            back = await link.fetch(CAM, [0, 2, 5], timeout_s=20.0)
            for block, number in zip(back, (0, 2, 5), strict=True):
                assert block.header == blocks[number].header
                assert torch.equal(block.payload, blocks[number].payload)
            with pytest.raises(TandemError):
                await link.fetch(CAM, [99], timeout_s=20.0)
            assert s.reasoner.transfer.links == 1
        await s.until(lambda: s.reasoner.transfer.links == 0)
        await s.until(lambda: all(entry.pins == 0 for entry in s.reasoner.store.directory.stream(CAM)))
        await s.idle()


async def test_blocks_of_a_stream_that_is_not_open_are_refused(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s, connected(s, model) as link:
        (result,) = await link.send(blocks[:1], timeout_s=5.0)
        assert result.outcome is Outcome.FAILED
        assert isinstance(result.error, NotFound)
        assert s.reasoner.store.ram_allocated_bytes == 0


@pytest.mark.parametrize(
    ("epoch", "of_ticket", "error"),
    [
        (2, {"secret": b"another secret!!"}, PermissionRefused),
        (2, {"reasoner": "reasoner-9"}, PermissionRefused),
        (1, {}, WrongState),
    ],
    ids=["foreign secret", "another reasoner's", "stale epoch"],
)
async def test_links_without_a_right_to_be_are_refused(
    model: VisionLanguageModel, epoch: int, of_ticket: dict[str, Any], error: type[TandemError]
) -> None:
    async with serve(model) as s, connected(s, model, epoch=1):
        with pytest.raises(error):
            await link_to(s, model, ticket(epoch, **of_ticket)).start()
        assert s.reasoner.transfer.links == 1


async def test_another_model_is_refused(model: VisionLanguageModel) -> None:
    async with serve(model) as s:
        with pytest.raises(Incompatible):
            await link_to(s, model, ticket(1), fingerprint="f" * 32).start()
        assert s.reasoner.transfer.links == 0


async def test_a_link_that_comes_back_replaces_its_older_self(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s:
        await s.open()
        old = link_to(s, model, ticket(1))
        await old.start()
        async with connected(s, model, epoch=2) as new:
            closed = await asyncio.wait_for(asyncio.shield(old.closed), 10)
            assert "superseded" in closed.reason
            results = await new.send(blocks, timeout_s=20.0)
            assert all(result.ok for result in results)
            assert s.reasoner.transfer.links == 1
        await s.ask()


async def test_a_budget_smaller_than_the_stream_evicts_and_goes_on(model: VisionLanguageModel) -> None:
    many = encode_clip(model, make_frames(model, 60))
    async with serve(model, ram_bytes=65_536) as s:
        await s.open()
        async with connected(s, model) as link:
            results = await link.send(many, timeout_s=30.0)
            assert all(result.ok for result in results)
        record = s.reasoner.streams.get(CAM)
        assert record.frontier.next == 61
        assert record.evicted[0].start_us == 0
        assert s.reasoner.store.ram_allocated_bytes <= 65_536
        assert (await s.ask()).final.watermark_us == many[-1].header.time.end_us


async def test_stopping_closes_the_links(model: VisionLanguageModel) -> None:
    async with serve(model) as s:
        link = link_to(s, model, ticket(1))
        await link.start()
        await s.reasoner.stop(grace_s=0.0)
        closed = await asyncio.wait_for(asyncio.shield(link.closed), 10)
        assert "stopping" in closed.reason
        with pytest.raises((Unavailable, TandemError)):
            await link_to(s, model, ticket(2)).start()
