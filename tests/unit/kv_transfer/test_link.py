"""Links end to end inside one process: handshake, sending, fetching, refusing, ending."""

from __future__ import annotations

import asyncio
import time

import pytest
import torch

from kv_transfer.base import EpochGuard, LinkConfig, Outcome
from kv_transfer.block import seal_block
from kv_transfer.faulty import Fault, FaultyMaker, Mischief
from kv_transfer.link import Link
from kv_transfer.loopback import loopback_channels
from kv_transfer.memory import DictStore, random_block
from tandem.core.blocks import BlockHeader
from tandem.core.errors import (
    DataLost,
    DeadlineExceeded,
    Incompatible,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionRefused,
    TandemError,
    Unavailable,
    WrongState,
)
from tandem.core.ids import StreamId
from tandem.core.transfer import (
    PROTOCOL_MAJOR,
    Direction,
    Hello,
    HelloAck,
    LaneKind,
    LaneOffer,
    Nack,
    NackCode,
    Offer,
)
from tests.contract.lane_pairs import (
    FINGERPRINT,
    LinkPair,
    count_descriptors,
    count_threads,
    link_pair,
    make_end,
    make_ticket,
    settle_threads,
)

LOOPBACK = LinkConfig(lanes=(LaneKind.LOOPBACK,), frame_timeout_s=1.0)


async def test_blocks_are_published_and_then_had() -> None:
    blocks = [random_block(number) for number in range(200)]
    async with link_pair(LOOPBACK) as pair:
        results = await pair.encoder.send(blocks, timeout_s=10)
        assert [result.outcome for result in results] == [Outcome.PUBLISHED] * 200
        assert [result.key for result in results] == [block.key for block in blocks]
        again = await pair.encoder.send(blocks, timeout_s=10)
        assert [result.outcome for result in again] == [Outcome.HAVE] * 200
        assert all(torch.equal(pair.reasoner_store.blocks[b.key].payload, b.payload) for b in blocks)


async def test_many_sends_at_once_both_ways() -> None:
    async with link_pair(LOOPBACK) as pair:
        sends = [pair.encoder.send([random_block(n), random_block(n + 100)], timeout_s=10) for n in range(50)]
        back = [pair.reasoner.send([random_block(n + 500)], timeout_s=10) for n in range(50)]
        results = await asyncio.gather(*sends, *back)
        assert all(result.ok for each in results for result in each)
        assert len(pair.reasoner_store.blocks) == 100
        assert len(pair.encoder_store.blocks) == 50


async def test_fetch_brings_the_peers_blocks_in_order() -> None:
    async with link_pair(LOOPBACK) as pair:
        blocks = [random_block(number) for number in range(80)]
        await pair.encoder.send(blocks, timeout_s=10)
        numbers = [5, 3, 70]
        fetched = await pair.encoder.fetch(StreamId("stream"), numbers, timeout_s=10)
        assert [block.key.number for block in fetched] == numbers
        assert all(torch.equal(f.payload, blocks[f.key.number].payload) for f in fetched)
        everything = await pair.encoder.fetch(StreamId("stream"), range(80), timeout_s=10)
        assert [block.key.number for block in everything] == list(range(80))
        with pytest.raises(NotFound):
            await pair.encoder.fetch(StreamId("stream"), [5, 99], timeout_s=10)
        with pytest.raises(InvalidInput):
            await pair.encoder.fetch(StreamId("stream"), [5, 5], timeout_s=10)
        assert pair.encoder_store.reserved_bytes == 0


async def test_a_full_receiver_is_waited_for() -> None:
    block = random_block(0)
    async with link_pair(LOOPBACK, sink=DictStore(budget_bytes=block.header.payload_bytes)) as pair:
        sink = pair.reasoner._sink
        assert (await pair.encoder.send([block], timeout_s=5))[0].ok
        sending = asyncio.create_task(pair.encoder.send([random_block(1), random_block(2)], timeout_s=5))
        await asyncio.sleep(0.3)
        assert not sending.done()
        sink.drop(block.key)
        async with asyncio.timeout(5):
            while not sink.blocks:  # noqa: ASYNC110 - the store knows no events
                await asyncio.sleep(0.01)
        sink.drop(next(iter(sink.blocks)))
        assert all(result.ok for result in await sending)


async def test_a_receiver_that_stays_full_is_told_of_in_time() -> None:
    async with link_pair(LOOPBACK, sink=DictStore(budget_bytes=1)) as pair:
        start = time.monotonic()
        (result,) = await pair.encoder.send([random_block(0)], timeout_s=0.5)
        assert time.monotonic() - start < 1.5
        assert isinstance(result.error, LimitExceeded)


async def test_one_impossible_block_does_not_condemn_the_others() -> None:
    blocks = [random_block(0), random_block(1, fingerprint="f" * 32), random_block(2)]
    async with link_pair(LOOPBACK) as pair:
        results = await pair.encoder.send(blocks, timeout_s=5)
        assert [result.ok for result in results] == [True, False, True]
        assert isinstance(results[1].error, Incompatible)


async def test_a_block_that_changed_after_packing_is_never_published() -> None:
    block = random_block(0)
    block.payload[10] ^= 1
    async with link_pair(LOOPBACK) as pair:
        (result,) = await pair.encoder.send([block], timeout_s=5)
        assert isinstance(result.error, DataLost)
        assert not pair.reasoner_store.blocks
        assert pair.reasoner_store.reserved_bytes == 0
        good = seal_block(block.header, block.payload)
        assert (await pair.encoder.send([good], timeout_s=5))[0].ok


@pytest.mark.parametrize("error", [Unavailable("full disk"), RuntimeError("a bug")])
async def test_a_sink_that_cannot_publish(error: Exception) -> None:
    class Broken(DictStore):
        def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
            raise error

    async with link_pair(LOOPBACK, sink=Broken()) as pair:
        (result,) = await pair.encoder.send([random_block(0)], timeout_s=5)
        assert isinstance(result.error, Unavailable if isinstance(error, TandemError) else Internal)


async def test_a_deadline_passes_while_the_lane_stalls() -> None:
    maker = FaultyMaker([Fault(at_frame=0, what=Mischief.DELAY, seconds=0.8)])
    async with link_pair(LOOPBACK, make_lane=maker) as pair:
        start = time.monotonic()
        (result,) = await pair.encoder.send([random_block(0)], timeout_s=0.3)
        assert time.monotonic() - start < 0.6
        assert isinstance(result.error, DeadlineExceeded)
        assert (await pair.encoder.send([random_block(1)], timeout_s=5))[0].ok
        assert pair.reasoner_store.reserved_bytes == 0


async def test_a_cancelled_send_frees_the_receiver() -> None:
    maker = FaultyMaker([Fault(at_frame=0, what=Mischief.DELAY, seconds=0.5)])
    async with link_pair(LOOPBACK, make_lane=maker) as pair:
        sending = asyncio.create_task(pair.encoder.send([random_block(0)], timeout_s=5))
        await asyncio.sleep(0.2)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (await pair.encoder.send([random_block(1)], timeout_s=5))[0].ok
        assert pair.reasoner_store.reserved_bytes == 0


async def test_close_settles_what_is_open() -> None:
    maker = FaultyMaker([Fault(at_frame=0, what=Mischief.DELAY, seconds=0.3)])
    async with link_pair(LOOPBACK, make_lane=maker) as pair:
        sending = asyncio.create_task(pair.encoder.send([random_block(0)], timeout_s=5))
        fetching = asyncio.create_task(pair.encoder.fetch(StreamId("x"), [1], timeout_s=5))
        await asyncio.sleep(0.05)
        await pair.encoder.close("enough")
        (result,) = await sending
        assert isinstance(result.error, Unavailable)
        with pytest.raises((Unavailable, NotFound)):
            await fetching
        assert (await pair.reasoner.closed).reason == "the peer says: enough"
        assert pair.reasoner_store.reserved_bytes == 0
        (late,) = await pair.encoder.send([random_block(1)], timeout_s=5)
        assert isinstance(late.error, Unavailable)
        with pytest.raises(Unavailable):
            await pair.encoder.fetch(StreamId("x"), [1], timeout_s=5)


async def start_both(encoder_end, reasoner_end, config: LinkConfig = LOOPBACK):  # type: ignore[no-untyped-def]
    """Errors of both starts."""
    ours, theirs = loopback_channels()
    store = DictStore()
    first = Link(ours, hello=encoder_end, sink=store, source=None, config=config, initiator=True)
    second = Link(theirs, hello=reasoner_end, sink=store, source=None, config=config, initiator=False)
    errors = await asyncio.gather(first.start(), second.start(), return_exceptions=True)
    await asyncio.gather(first.close("end of test"), second.close("end of test"))
    return errors


REFUSED = [
    pytest.param({}, {"fingerprint": "1" * 32}, Incompatible, id="fingerprint"),
    pytest.param({}, {"node_id": "reasoner-9"}, PermissionRefused, id="somebody else's"),
    pytest.param({}, {"cluster_secret": bytes(32)}, PermissionRefused, id="secret"),
    pytest.param({"ticket": make_ticket(not_after_unix_s=1)}, {}, PermissionRefused, id="expired"),
    pytest.param({"ticket": b""}, {}, PermissionRefused, id="no ticket"),
    pytest.param({}, {"refuse": lambda: Unavailable("draining")}, Unavailable, id="draining"),
    pytest.param(
        {},
        {"refuse": lambda: LimitExceeded("too many peers", retry_after_s=3.0)},
        LimitExceeded,
        id="busy",
    ),
]


@pytest.mark.parametrize(("encoder", "reasoner", "error"), REFUSED)
async def test_refused_handshakes(
    encoder: dict[str, object], reasoner: dict[str, object], error: type[TandemError]
) -> None:
    fast = LinkConfig(lanes=(LaneKind.LOOPBACK,), handshake_timeout_s=0.5)
    acceptor = make_end(**({"node_id": "reasoner-0"} | reasoner))
    # Made here, not when tests are collected: a ticket is good for a minute.
    initiator = make_end("encoder-0", **({"ticket": make_ticket()} | encoder))
    ours, theirs = await start_both(initiator, acceptor, fast)
    assert isinstance(ours, error), ours
    assert isinstance(theirs, TandemError), theirs


async def test_a_peer_of_the_older_major_is_told_so() -> None:
    older = PROTOCOL_MAJOR - 1
    ours, theirs = loopback_channels()
    acceptor = Link(
        theirs, hello=make_end("reasoner-0"), sink=DictStore(), source=None, config=LOOPBACK, initiator=False
    )
    starting = asyncio.create_task(acceptor.start())
    offers = (LaneOffer(kind=LaneKind.LOOPBACK),)
    hello = Hello(
        major=older,
        newest_major=0,  # it knows of no ranges
        fingerprint=FINGERPRINT,
        boot_id="b",
        ticket=make_ticket(),
        lanes=offers,
    )
    await ours.send(hello)
    nack = await ours.receive()
    assert isinstance(nack, Nack)
    assert nack.code is NackCode.VERSION
    assert nack.message == (
        f"the peer speaks the transfer protocol {older}, reasoner-0 speaks {PROTOCOL_MAJOR}: "
        "upgrade the peer, one release at a time (docs/upgrades.md)"
    )
    with pytest.raises(TandemError):
        await starting
    await acceptor.close("end of test")


@pytest.mark.parametrize(
    "answer",
    [
        HelloAck(major=PROTOCOL_MAJOR - 1, fingerprint=FINGERPRINT, boot_id="b", lanes=(LaneKind.LOOPBACK,)),
        Nack(code=NackCode.VERSION, message="protocol version"),
    ],
    ids=["older answer", "refusal"],
)
async def test_an_acceptor_of_the_older_major_is_incompatible(answer: HelloAck | Nack) -> None:
    ours, theirs = loopback_channels()
    initiator = Link(
        ours,
        hello=make_end("encoder-0", ticket=make_ticket()),
        sink=DictStore(),
        source=None,
        config=LOOPBACK,
        initiator=True,
    )
    starting = asyncio.create_task(initiator.start())
    assert isinstance(await theirs.receive(), Hello)
    await theirs.send(answer)
    with pytest.raises(Incompatible):
        await starting
    await initiator.close("end of test")


async def test_an_old_epoch_does_not_come_back() -> None:
    guard = EpochGuard()
    for epoch, error in ((4, None), (5, None), (5, WrongState), (3, WrongState), (6, None)):
        ours, _ = await start_both(
            make_end("encoder-0", ticket=make_ticket(epoch)), make_end("reasoner-0", epochs=guard)
        )
        assert (ours is None) if error is None else isinstance(ours, error)


async def test_no_lane_in_common() -> None:
    ours, theirs = loopback_channels()
    store = DictStore()
    first = Link(
        ours,
        hello=make_end("encoder-0", ticket=make_ticket()),
        sink=store,
        source=None,
        config=LinkConfig(lanes=(LaneKind.GLOO,)),
        initiator=True,
    )
    second = Link(
        theirs, hello=make_end("reasoner-0"), sink=store, source=None, config=LOOPBACK, initiator=False
    )
    errors = await asyncio.gather(first.start(), second.start(), return_exceptions=True)
    assert all(isinstance(error, Incompatible) for error in errors), errors


async def test_another_directory_means_another_host(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = loopback_channels()
    links = []
    for channel, end, name, initiator in (
        (ours, make_end("encoder-0", ticket=make_ticket()), "a", True),
        (theirs, make_end("reasoner-0"), "b", False),
    ):
        config = LinkConfig(lanes=(LaneKind.SHM, LaneKind.LOOPBACK), shm_directory=str(tmp_path / name))
        links.append(
            Link(channel, hello=end, sink=DictStore(), source=None, config=config, initiator=initiator)
        )
    await asyncio.gather(*(link.start() for link in links))
    assert set(links[0].lane_kinds.values()) == {LaneKind.LOOPBACK}
    await links[0].close("end of test")
    await links[1].closed
    assert [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()] == []


async def test_a_silent_peer_is_given_up() -> None:
    config = LinkConfig(lanes=(LaneKind.LOOPBACK,), heartbeat_s=0.1, heartbeat_misses=3)
    async with link_pair(config) as pair:
        await asyncio.sleep(0.6)
        assert not pair.encoder.closed.done(), "heartbeats keep a quiet link open"
        for task in pair.reasoner._tasks:
            task.cancel()
        closed = await asyncio.wait_for(pair.encoder.closed, 2)
        assert isinstance(closed.error, Unavailable)
        await pair.reasoner.close("end of test")


async def test_nobody_answers_the_hello() -> None:
    ours, _theirs = loopback_channels()
    link = Link(
        ours,
        hello=make_end("encoder-0", ticket=make_ticket()),
        sink=DictStore(),
        source=None,
        config=LinkConfig(lanes=(LaneKind.LOOPBACK,), handshake_timeout_s=0.2),
        initiator=True,
    )
    with pytest.raises(DeadlineExceeded):
        await link.start()
    assert link.closed.done()


async def test_a_message_out_of_place_closes_the_link() -> None:
    async with link_pair(LOOPBACK) as pair:
        end = make_end("x")
        await pair.encoder._channel.send(pair_hello(end.fingerprint))
        closed = await pair.reasoner.closed
        assert isinstance(closed.error, InvalidInput)


def pair_hello(fingerprint: str):  # type: ignore[no-untyped-def]
    from tandem.core.transfer import Hello

    return Hello(fingerprint=fingerprint, boot_id="b", ticket=b"", lanes=())


async def test_an_offer_of_an_impossible_header_is_refused() -> None:
    import dataclasses

    header = random_block(0).header
    bad = dataclasses.replace(header, layer_checksums=(1,))
    async with link_pair(LOOPBACK) as pair:
        await pair.encoder._channel.send(Offer(transfer_id=1000, headers=(bad,), timeout_s=1.0))
        await asyncio.sleep(0.1)
        assert not pair.reasoner.closed.done()
        assert pair.reasoner_store.reserved_bytes == 0
    assert header.fingerprint == FINGERPRINT


@pytest.mark.parametrize("kind", [LaneKind.LOOPBACK, LaneKind.SHM, LaneKind.GLOO])
async def test_links_leave_nothing_behind(kind: LaneKind) -> None:
    async def once() -> None:
        async with link_pair(LinkConfig(lanes=(kind,))) as pair:
            assert (await pair.encoder.send([random_block(0)], timeout_s=5))[0].ok

    await once()
    threads, descriptors = count_threads(), count_descriptors()
    for _ in range(10):
        await once()
    assert count_descriptors() <= descriptors
    assert settle_threads(threads) <= threads


async def test_a_link_starts_once() -> None:
    async with link_pair(LOOPBACK) as pair:
        with pytest.raises(WrongState):
            await pair.encoder.start()
        assert pair.encoder.ticket.pair_id == "pair"
        assert pair.reasoner.peer_boot_id == "boot-of-encoder-0"
        assert set(pair.reasoner.lane_kinds) == set(Direction)
    fresh = LinkPair(LOOPBACK)
    with pytest.raises(WrongState):
        _ = fresh.encoder.ticket
    await fresh.encoder.close("never started")
    await fresh.reasoner.close("never started")


@pytest.mark.parametrize("answered_first", [False, True])
async def test_a_link_closed_in_the_handshake_leaves_nothing(answered_first: bool) -> None:
    threads = count_threads()
    ours, theirs = loopback_channels()
    link = Link(
        ours,
        hello=make_end("encoder-0", ticket=make_ticket()),
        sink=DictStore(),
        source=None,
        config=LOOPBACK,
        initiator=True,
    )
    starting = asyncio.create_task(link.start())
    assert isinstance(await theirs.receive(), Hello)
    answer = HelloAck(fingerprint=FINGERPRINT, boot_id="boot", lanes=(LaneKind.LOOPBACK,))
    if not answered_first:
        link._end("changed our mind", None)
    await theirs.send(answer)
    closing = asyncio.create_task(link.close("changed our mind"))
    with pytest.raises(Unavailable):
        await starting
    await closing
    assert settle_threads(threads) <= threads
