"""Reading ahead, keeping pace, leaving out what cannot be used."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from tandem.client import Limits, MediaKind, MediaOptions, ModelInfo, Opened, PictureFormat
from tandem.client.sources import Piece, feed
from tandem.core.errors import BadMedia, LimitExceeded, Unavailable, WrongState


def piece(number: int, data: bytes = b"x") -> Piece:
    time_us = number * 100_000
    return Piece(
        data=data,
        picture=PictureFormat.JPEG,
        pts_us=time_us,
        due_us=time_us,
        complete_us=time_us,
        name=f"{number}.jpg",
    )


class ListSource:
    """Pieces from a list; an exception in it is raised."""

    def __init__(self, items: list[Piece | Exception], *, live: bool = False) -> None:
        self.name, self.live = "list", live
        self.media = MediaOptions(kind=MediaKind.PICTURES)
        self.items, self.closed, self.given, self.thread = items, threading.Event(), 0, ""

    def adapt(self, opened: Opened) -> None:
        self.sample_fps = opened.sample_fps

    def pieces(self) -> Iterator[Piece]:
        self.thread = threading.current_thread().name
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            self.given += 1
            yield item

    def close(self) -> None:
        self.closed.set()


class Collected:
    """A sink that remembers when it got what."""

    def __init__(self, refuse: Exception | None = None) -> None:
        self.got: list[tuple[int, float]] = []
        self.refuse = refuse
        self.info = Opened(
            stream_id="s",
            resume_token="t",
            resumed=False,
            next_position=0,
            model=ModelInfo(),
            sample_fps=2.0,
            limits=Limits(),
        )

    async def push_picture(
        self, data: bytes, *, pts_us: int, picture_format: PictureFormat = PictureFormat.JPEG
    ) -> int:
        if self.refuse and data == b"bad":
            raise self.refuse
        self.got.append((pts_us, time.monotonic()))
        return len(self.got)

    async def push_chunk(self, data: bytes, *, pts_us: int | None = None) -> int:
        raise AssertionError("pictures only")


async def test_pieces_go_out_when_they_are_due() -> None:
    sink = Collected()
    fed = await feed(sink, ListSource([piece(number) for number in range(5)]), speed=2.0)
    times = [at - sink.got[0][1] for _, at in sink.got]
    assert [pts for pts, _ in sink.got] == [0, 100_000, 200_000, 300_000, 400_000]
    assert all(at >= 0.05 * number - 0.02 for number, at in enumerate(times))
    assert (fed.pieces, fed.end_us, fed.error) == (5, 400_000, None)


@pytest.mark.parametrize("live", [True, False])
async def test_cameras_and_full_speed_do_not_wait(live: bool) -> None:
    source = ListSource([piece(number * 100) for number in range(5)], live=live)
    async with asyncio.timeout(5):
        fed = await feed(Collected(), source, speed=1.0 if live else None)
    assert fed.pieces == 5
    assert source.closed.is_set()
    assert source.thread == "source list"
    assert source.sample_fps == 2.0


async def test_what_cannot_be_used_is_left_out_and_told() -> None:
    sink = Collected(refuse=LimitExceeded("too large"))
    fed = await feed(sink, ListSource([piece(0), piece(1, b"bad"), piece(2)]), speed=None)
    assert [pts for pts, _ in sink.got] == [0, 200_000]
    assert [str(error) for error in fed.refused] == ["1.jpg: too large"]


async def test_a_source_that_breaks_off_is_told_after_the_rest() -> None:
    fed = await feed(Collected(), ListSource([piece(0), BadMedia("cut off")]), speed=None)
    assert fed.pieces == 1
    assert isinstance(fed.error, BadMedia)


async def test_a_fault_in_a_source_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="bug"):
        await feed(Collected(), ListSource([piece(0), RuntimeError("bug")]), speed=None)


@pytest.mark.parametrize("error", [Unavailable("gone"), WrongState("ended")])
async def test_a_stream_that_fails_stops_the_source(error: Exception) -> None:
    source = ListSource([piece(0), piece(1, b"bad"), *(piece(number) for number in range(2, 5000))])
    with pytest.raises(type(error)):
        await feed(Collected(refuse=error), source, speed=None)
    assert source.closed.is_set()
    await asyncio.sleep(0.05)
    assert source.given < 200, "it reads only a little ahead"


async def test_what_comes_before_a_piece_is_awaited_first() -> None:
    order: list[str] = []

    async def before(item: Piece) -> None:
        await asyncio.sleep(0)
        order.append(f"before {item.pts_us}")

    class Noting(Collected):
        async def push_picture(
            self, data: bytes, *, pts_us: int, picture_format: PictureFormat = PictureFormat.JPEG
        ) -> int:
            order.append(f"push {pts_us}")
            return 0

    await feed(Noting(), ListSource([piece(0), piece(1)]), speed=None, before=before)
    assert order == ["before 0", "push 0", "before 100000", "push 100000"]
