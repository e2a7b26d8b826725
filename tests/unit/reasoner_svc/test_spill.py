"""Streams are taken up from disk by one worker, and an opening that comes to nothing leaves nothing open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reasoner_svc.store.disk.files import Files, Result
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.store.spill import Spiller
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.ram import RamTier
from reasoner_svc.turns import Turns
from tandem.core.clock import monotonic_clock
from tandem.core.errors import Unavailable
from tandem.core.ids import StreamId
from tests.unit.reasoner_svc.store_disk.disk_making import CAM, items, make_store

OTHER = StreamId("other")


class Held(Files):
    """A disk that makes no directory while it is held."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.made: list[str] = []

    def call(self, name: str, work: Callable[[], Result]) -> Result:
        if name == "mkdir":
            self.entered.release()
            assert self.gate.wait(20)
        return super().call(name, work)

    def mkdir(self, path: Path) -> None:
        self.made.append(path.name)
        super().mkdir(path)


def write(root: Path) -> None:
    store = make_store(root)
    store.open(CAM)
    store.append(CAM, items(0, 6))
    store.close_all()


@asynccontextmanager
async def spilling(root: Path, files: Files) -> AsyncIterator[Spiller]:
    disk = make_store(root, files=files)
    store = BlockStore(RamTier(1 << 20), None, disk.read)
    spiller = Spiller(store, disk, clock=monotonic_clock, on_durable=lambda *_: None, on_gone=lambda _: None)
    try:
        yield spiller
    finally:
        await spiller.close()


async def hold(files: Held, opening: asyncio.Task[object]) -> None:
    """Wait until the worker is in the middle of it."""
    assert await asyncio.to_thread(files.entered.acquire, timeout=20)
    assert not opening.done()


async def test_a_cancelled_opening_lets_the_stream_go(tmp_path: Path) -> None:
    write(tmp_path)
    files = Held()
    async with spilling(tmp_path, files) as spiller:
        assert files.entered.acquire(timeout=20), "the root"
        files.gate.clear()
        opening = asyncio.create_task(spiller.take_up(CAM, 1000, Claim()))
        await hold(files, opening)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        files.gate.set()
        await spiller.take_up(OTHER, 1000, Claim())  # What was owed before has been done now.
        elsewhere = make_store(tmp_path)
        assert len(elsewhere.open(CAM).headers) == 6, "another process may take it up"
        elsewhere.close_all()
        assert len((await spiller.take_up(CAM, 1000, Claim())).recovered.headers) == 6


async def test_an_opening_that_was_cancelled_while_it_waited_is_not_carried_out(tmp_path: Path) -> None:
    files = Held()
    async with spilling(tmp_path, files) as spiller:
        assert files.entered.acquire(timeout=20), "the root"
        files.gate.clear()
        first = asyncio.create_task(spiller.take_up(CAM, 1000, Claim()))
        await hold(files, first)
        waiting = asyncio.create_task(spiller.take_up(OTHER, 1000, Claim()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        files.gate.set()
        await first
        await spiller.take_up(StreamId("third"), 1000, Claim())
        assert "s-other" not in files.made


async def test_what_an_opening_left_open_is_closed_by_the_next(tmp_path: Path) -> None:
    write(tmp_path)
    async with spilling(tmp_path, Held()) as spiller:
        await spiller.take_up(CAM, 1000, Claim())
        assert len((await spiller.take_up(CAM, 1000, Claim())).recovered.headers) == 6


async def test_an_opening_that_fails_lets_the_stream_go(tmp_path: Path) -> None:
    write(tmp_path)
    async with spilling(tmp_path, Held()) as spiller:
        with pytest.raises(TypeError):
            await spiller.take_up(CAM, None, Claim())  # type: ignore[arg-type]
        elsewhere = make_store(tmp_path)
        elsewhere.open(CAM)
        with pytest.raises(Unavailable):
            await spiller.take_up(CAM, 1000, Claim())
        elsewhere.close_all()
        assert len((await spiller.take_up(CAM, 1000, Claim())).recovered.headers) == 6


async def test_turns_are_kept_for_nobody_who_left() -> None:
    turns, order = Turns(), list[str]()

    async def take(name: str) -> None:
        async with turns.of(CAM):
            order.append(name)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(take(name)) for name in "abc"]
    await asyncio.sleep(0)
    assert len(turns) == 1
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (order, len(turns)) == (["a", "c"], 0)
