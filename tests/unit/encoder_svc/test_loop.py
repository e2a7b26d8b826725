"""The model's thread: order, fairness, and a stream that fails without taking others along."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from encoder_svc.changes import Changes
from encoder_svc.encode import prefill_runs
from encoder_svc.lanes import Lane, LoopConfig
from encoder_svc.loop import EncodeLoop
from encoder_svc.sample import Unit
from kv_transfer.block import Block, pack_block
from kv_transfer.codecs import NotCodable
from tandem.core.blocks import BlockKey, Codec
from tandem.core.clock import ManualClock
from tandem.core.errors import Internal, TandemError
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tests.unit.encoder_svc.media import Rgb, picture
from tests.unit.encoder_svc.rig import model


class Taker:
    """A stream that collects what comes back."""

    def __init__(self, name: str) -> None:
        self.blocks: list[tuple[int, Block]] = []
        self.errors: list[TandemError] = []
        self.ready = asyncio.Event()
        self._changes = Changes()
        self.left_out: list[int] = []
        self.lane = Lane(StreamId(name), None, self.ready.set, self._take, self._fail, self.left_out.append)

    def _take(self, blocks: list[tuple[int, Block]]) -> None:
        self.blocks += blocks
        self._changes.notify()

    def _fail(self, error: TandemError) -> None:
        self.errors.append(error)
        self._changes.notify()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            await self._changes.wait_for(lambda: len(self.blocks) >= count or bool(self.errors))


def unit(index: int, rgb: Rgb | None = None) -> Unit[Rgb]:
    time = TimeRange(index * 1_000_000, (index + 1) * 1_000_000)
    return Unit(time, (picture(index) if rgb is None else rgb,))


def make_loop(codec: Codec = Codec.RAW) -> EncodeLoop:
    return EncodeLoop(model(), LoopConfig(window_units=3, run_units=4, batch_units=8, codec=codec))


async def test_units_come_back_in_order_with_their_serials() -> None:
    loop, takers = make_loop(), [Taker("a"), Taker("b")]
    for taker in takers:
        loop.open(taker.lane)
        for index in range(10):
            loop.submit(taker.lane, index + 1, unit(index))
    loop.start()
    for taker in takers:
        await taker.until(11)
        assert [serial for serial, _ in taker.blocks] == list(range(11))
        assert [block.key.number for _, block in taker.blocks] == list(range(11))
        assert {block.key.stream for _, block in taker.blocks} == {taker.lane.stream}
    assert loop.stats.units == 20
    assert loop.stats.batches < 20
    await loop.close()


async def test_a_stream_that_fails_takes_no_other_along() -> None:
    loop, good, bad = make_loop(), Taker("good"), Taker("bad")
    for taker in (good, bad):
        loop.open(taker.lane)
    for index in range(6):
        loop.submit(good.lane, index + 1, unit(index))
        wrong = np.zeros((2, 900, 3), np.uint8) if index == 2 else None
        loop.submit(bad.lane, index + 1, unit(index, wrong))
    loop.start()
    await good.until(7)
    await bad.until(7)
    assert len(good.blocks) == 7
    assert not good.errors
    assert len(bad.errors) >= 1
    assert isinstance(bad.errors[0], TandemError)
    await loop.close()


async def test_uncodable_numbers_end_their_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(key: BlockKey, *arguments: Any, **named: Any) -> Block:
        *before, keys, values = arguments
        if key == BlockKey(StreamId("bad"), 2):
            keys = keys * float("nan")
        return pack_block(key, *before, keys, values, **named)

    monkeypatch.setattr("encoder_svc.encode.pack_block", spoiled)
    loop, good, bad = make_loop(Codec.INT8), Taker("good"), Taker("bad")
    for taker in (good, bad):
        loop.open(taker.lane)
        for index in range(3):
            loop.submit(taker.lane, index + 1, unit(index))
    loop.start()
    await good.until(4)
    await bad.until(4)
    assert [block.header.codec for _, block in good.blocks] == [Codec.RAW, *[Codec.INT8] * 3]
    assert not good.errors
    assert [type(error) for error in bad.errors] == [NotCodable]
    await loop.close()


async def test_nothing_is_encoded_in_a_window_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, taker, good = make_loop(), Taker("a"), Taker("b")
    real, calls = prefill_runs, 0

    def fails_once(*arguments: Any) -> list[list[Block]]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("out of memory")
        return real(*arguments)

    monkeypatch.setattr("encoder_svc.loop.prefill_runs", fails_once)
    loop.open(taker.lane)
    for index in range(12):  # several batches wait before the event loop hears of the first
        loop.submit(taker.lane, index + 1, unit(index))
    loop.start()
    await taker.until(13)
    loop.open(good.lane)
    loop.submit(good.lane, 1, unit(0))
    await good.until(2)
    assert [serial for serial, _ in taker.blocks] == [0], "the sink came before the failure"
    assert [type(error) for error in taker.errors] == [Internal]
    await loop.close()


async def test_what_was_dropped_comes_back_no_more() -> None:
    loop, gone, here = make_loop(), Taker("gone"), Taker("here")
    for taker in (gone, here):
        loop.open(taker.lane)
        for index in range(5):
            loop.submit(taker.lane, index + 1, unit(index))
    loop.drop(gone.lane)
    loop.start()
    await here.until(6)
    assert gone.blocks == []
    assert gone.lane.window is None
    await loop.close()


async def test_an_unexpected_failure_is_internal_and_the_thread_lives_on() -> None:
    loop, bad, good = make_loop(), Taker("bad"), Taker("good")
    loop.open(bad.lane)
    loop.submit(bad.lane, 1, Unit(TimeRange(0, 1), ()))
    loop.start()
    await bad.until(2)
    assert isinstance(bad.errors[0], Internal)
    loop.open(good.lane)
    await good.until(1)
    await asyncio.wait_for(good.ready.wait(), 30)
    await loop.close()


async def test_what_waited_beyond_its_streams_lag_is_left_out_and_the_rest_is_numbered_on() -> None:
    clock = ManualClock()
    loop = EncodeLoop(model(), LoopConfig(window_units=3, run_units=4, batch_units=8), clock=clock)
    late, patient = Taker("late"), Taker("patient")
    late.lane.max_lag_s = 5.0
    for taker in (late, patient):
        loop.open(taker.lane)
        for index in range(4):
            loop.submit(taker.lane, index + 1, unit(index))  # due after 1, 2, 3, 4 s
    clock.advance(7.5)
    loop.start()
    await patient.until(5)
    await late.until(3)
    assert late.left_out == [1, 2]
    assert [serial for serial, _ in late.blocks] == [0, 3, 4]
    assert [block.key.number for _, block in late.blocks] == [0, 1, 2]
    assert patient.left_out == []
    await loop.close()
