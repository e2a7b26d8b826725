"""Shell: reads a source in a thread, keeps its pace, and pushes it into a stream."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Protocol

from tandem.client.sources.base import Piece, Source
from tandem.client.types import Opened, PictureFormat
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import InvalidInput, LimitExceeded, TandemError
from tandem.core.timeline import MICROSECONDS

READ_AHEAD = 32
"""Pieces read before they are due: enough to hide a slow disk, little enough to stop quickly."""


class Sink(Protocol):
    """What can be fed: a `Stream`."""

    @property
    def info(self) -> Opened:
        """What the server said."""

    async def push_picture(
        self, data: bytes, *, pts_us: int, picture_format: PictureFormat = PictureFormat.JPEG
    ) -> int:
        """Hand over one picture."""

    async def push_chunk(self, data: bytes, *, pts_us: int | None = None) -> int:
        """Hand over the next bytes."""


@dataclass(slots=True)
class Fed:
    """What became of a source."""

    pieces: int = 0
    bytes: int = 0
    end_us: int = 0
    refused: list[TandemError] = field(default_factory=list)
    """Pieces that were not sent because they could not be used."""
    error: TandemError | None = None
    """Why the source ended early; None when it was read to its end."""


async def feed(
    stream: Sink,
    source: Source,
    *,
    speed: float | None = 1.0,
    before: Callable[[Piece], Awaitable[None]] | None = None,
    clock: Clock = monotonic_clock,
) -> Fed:
    """Push everything that `source` has, at `speed` times real time (None: as fast as it goes).

    `before` is awaited with each piece before it is pushed. A piece that cannot be used is left out and told
    in the result; so is the error of a source that breaks off.
    """
    source.adapt(stream.info)
    fed = Fed()
    began_s = clock()
    reader = read_ahead(source)
    try:
        async for piece in reader:
            if speed and not source.live:
                await _wait_until(began_s + piece.due_us / MICROSECONDS / speed, clock)
            if before:
                await before(piece)
            await _push(stream, piece, fed)
    except SourceEnded as ended:
        fed.error = ended.error
    finally:
        await reader.aclose()
    return fed


class SourceEnded(Exception):
    """A source broke off with `error`: told apart from errors of the stream that is fed."""

    def __init__(self, error: TandemError) -> None:
        super().__init__(str(error))
        self.error = error


async def read_ahead(source: Source) -> AsyncGenerator[Piece, None]:
    """The pieces of `source`, read in a thread, a few ahead. Closes the source at the end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue(READ_AHEAD)
    stopped = threading.Event()

    def hand_over(item: Piece | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError, CancelledError):  # the loop went away: nobody reads any more
            asyncio.run_coroutine_threadsafe(ready.put(item), loop).result()

    def read() -> None:
        last: BaseException | None = None
        try:
            for piece in source.pieces():
                if stopped.is_set():
                    return
                hand_over(piece)
        except BaseException as error:
            last = error
        hand_over(last)

    # A daemon: a read that blocks for ever (a silent pipe) must not keep the program alive.
    threading.Thread(target=read, name=f"source {source.name}", daemon=True).start()
    try:
        while (item := await ready.get()) is not None:
            if isinstance(item, TandemError):
                raise SourceEnded(item)
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        source.close()
        while not ready.empty():
            ready.get_nowait()


async def _push(stream: Sink, piece: Piece, fed: Fed) -> None:
    try:
        if piece.picture:
            await stream.push_picture(piece.data, pts_us=piece.pts_us, picture_format=piece.picture)
        elif piece.data:
            await stream.push_chunk(piece.data, pts_us=piece.pts_us)
    except (InvalidInput, LimitExceeded) as error:
        fed.refused.append(type(error)(f"{piece.name}: {error.message}"))
        return
    fed.pieces += 1
    fed.bytes += len(piece.data)
    fed.end_us = max(fed.end_us, piece.pts_us)


async def _wait_until(due_s: float, clock: Clock) -> None:
    wait_s = due_s - clock()
    if wait_s > 0:
        await asyncio.sleep(wait_s)
