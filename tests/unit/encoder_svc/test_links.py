"""Links to reasoners: shared, reopened with an unused ticket only, ended when the reasoner restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from encoder_svc.keeping import fetch_kept
from encoder_svc.links import LinkPool, OpenLink, Target
from kv_transfer.base import LinkClosed, SendResult
from kv_transfer.block import Block
from tandem.core.errors import DataLost, NotFound, PermissionRefused, Unavailable, WrongState
from tandem.core.ids import StreamId
from tests.unit.encoder_svc.rig import SECRET, Tickets, model
from tests.unit.encoder_svc.test_window import Window, encode, encode_sink, make_units

TARGET = Target("reasoner", "127.0.0.1:1")


class FakeLink:
    """A link whose end the test decides."""

    def __init__(self, boot_id: str = "boot") -> None:
        self.closed: asyncio.Future[LinkClosed] = asyncio.get_running_loop().create_future()
        self.peer_boot_id = boot_id
        self.held: dict[int, Block] = {}
        self.error: Exception | None = None

    async def send(self, blocks: Sequence[Block], *, timeout_s: float) -> list[SendResult]:
        return []

    async def fetch(self, stream: StreamId, numbers: Sequence[int], *, timeout_s: float) -> list[Block]:
        if self.error is not None:
            raise self.error
        missing = [number for number in numbers if number not in self.held]
        if missing:
            raise DataLost(f"{missing}")
        return [self.held[number] for number in numbers]

    async def close(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(LinkClosed(reason=reason))


class Dialer:
    """Gives prepared links or errors, and remembers the tickets."""

    def __init__(self, *outcomes: FakeLink | Exception) -> None:
        self.outcomes = list(outcomes)
        self.tickets: list[bytes] = []

    async def __call__(self, address: str, ticket: bytes) -> OpenLink:
        self.tickets.append(ticket)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def make_pool(dialer: Dialer, idle_s: float = 30.0, patience_s: float = 5.0) -> LinkPool:
    return LinkPool(dialer, SECRET, patience_s=patience_s, idle_s=idle_s)


async def test_a_link_is_asked_for_its_end_once() -> None:
    class Counting(FakeLink):
        asked = 0

        @property
        def closed(self) -> asyncio.Future[LinkClosed]:
            self.asked += 1
            return self._closed

        @closed.setter
        def closed(self, future: asyncio.Future[LinkClosed]) -> None:
            self._closed = future

    link = Counting()
    pool, tickets = make_pool(Dialer(link)), Tickets()
    lease = pool.lease(TARGET, tickets.next())
    for _ in range(50):
        assert await lease.ready() is link
        assert pool.open_links == 1
    assert link.asked == 1, "a real link keeps a waiter for every asking until it ends"
    await pool.close()


async def test_streams_share_a_link_and_it_ends_when_idle() -> None:
    link = FakeLink()
    pool, tickets = make_pool(Dialer(link), idle_s=0.02), Tickets()
    first, second = pool.lease(TARGET, tickets.next()), pool.lease(TARGET, tickets.next())
    assert await asyncio.gather(first.ready(), second.ready()) == [link, link]
    pool.release(first)
    await asyncio.sleep(0.05)
    assert pool.open_links == 1
    pool.release(second)
    await asyncio.sleep(0.05)
    assert link.closed.done()
    assert pool.open_links == 0
    await pool.close()


async def test_a_link_that_is_taken_again_in_time_stays() -> None:
    link = FakeLink()
    pool, tickets = make_pool(Dialer(link), idle_s=0.05), Tickets()
    lease = pool.lease(TARGET, tickets.next())
    await lease.ready()
    pool.release(lease)
    again = pool.lease(TARGET, tickets.next())
    await asyncio.sleep(0.1)
    assert await again.ready() is link
    await pool.close()
    assert link.closed.done()


async def test_a_spent_ticket_opens_nothing_and_a_fresh_one_does() -> None:
    first, second = FakeLink(), FakeLink()
    dialer = Dialer(first, second)
    pool, tickets = make_pool(dialer), Tickets()
    lease = pool.lease(TARGET, tickets.next())
    await lease.ready()
    await first.close("gone")
    with pytest.raises(Unavailable, match="fresh ticket"):
        await lease.ready()
    fresh = tickets.next()
    other = pool.lease(TARGET, fresh)
    assert await other.ready() is second
    assert await lease.ready() is second
    assert dialer.tickets[-1] == fresh
    await pool.close()


async def test_a_reasoner_that_restarted_has_lost_the_blocks() -> None:
    first, second = FakeLink("one"), FakeLink("two")
    pool, tickets = make_pool(Dialer(first, second)), Tickets()
    lease = pool.lease(TARGET, tickets.next())
    await lease.ready()
    await first.close("gone")
    other = pool.lease(TARGET, tickets.next())
    await other.ready()
    with pytest.raises(DataLost, match="restarted"):
        await lease.ready()
    await pool.close()


async def test_a_reasoner_that_is_not_there_yet_is_waited_for() -> None:
    link = FakeLink()
    dialer = Dialer(Unavailable("starting"), Unavailable("starting", retry_after_s=0.01), link)
    pool = make_pool(dialer)
    lease = pool.lease(TARGET, Tickets().next())
    assert await lease.ready() is link
    assert len(set(dialer.tickets)) == 1
    await pool.close()


async def test_patience_ends_and_refusals_are_final() -> None:
    dialer = Dialer(*[Unavailable("down")] * 50)
    lease = make_pool(dialer, patience_s=0.2).lease(TARGET, Tickets().next())
    with pytest.raises(Unavailable, match="down"):
        await lease.ready()
    dialer = Dialer(WrongState("the epoch has passed"))
    lease = make_pool(dialer).lease(TARGET, Tickets().next())
    with pytest.raises(WrongState):
        await lease.ready()
    with pytest.raises(Unavailable, match="fresh ticket"):
        await lease.ready()


async def test_a_ticket_that_its_first_try_used_up_does_not_hide_why_that_failed() -> None:
    dialer = Dialer(Unavailable("no lane is left"), WrongState("the epoch has passed"))
    lease = make_pool(dialer).lease(TARGET, Tickets().next())
    with pytest.raises(Unavailable, match=r"no lane is left.*the epoch has passed"):
        await lease.ready()


async def test_a_ticket_that_nobody_signed_is_refused() -> None:
    with pytest.raises(PermissionRefused):
        make_pool(Dialer()).lease(TARGET, b"nonsense")


async def test_what_is_left_of_a_window_is_fetched() -> None:
    vlm = model()
    window = Window(vlm, 4)
    sink = encode_sink(vlm, StreamId("s"), window)
    blocks = [sink, *encode(vlm, window, make_units(vlm, 8), 8)]
    link = FakeLink()
    link.held = dict(enumerate(blocks))
    pool = make_pool(Dialer(link))
    lease = pool.lease(TARGET, Tickets().next())

    async def numbers() -> tuple[bool, list[int]]:
        kept = await fetch_kept(lease, StreamId("s"), 9, 4, (), 1.0)
        return kept.sink is not None, [block.key.number for block in kept.recent]

    assert await numbers() == (True, [5, 6, 7, 8])
    del link.held[5]
    assert await numbers() == (True, [8])
    del link.held[0]
    link.held.pop(8)
    assert await numbers() == (False, [])
    link.error = NotFound("no such stream")
    with pytest.raises(NotFound):
        await numbers()
    await pool.close()


async def test_a_lease_given_back_after_the_pool_closed_arms_nothing() -> None:
    pool = LinkPool(Dialer(), SECRET, patience_s=1.0, idle_s=0.01)
    lease = pool.lease(TARGET, Tickets().next())
    await pool.close()
    pool.release(lease)
    assert lease.peer.idle_close is None
