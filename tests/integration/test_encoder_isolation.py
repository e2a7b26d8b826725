"""An encoder whose decoders die: the stream is told, goes on, and no other notices."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tandem.wire.gen.tandem.v1 import types_pb2
from tests.unit.encoder_svc.rig import END, Rig, make_rig, send_pictures

PICTURES = types_pb2.MEDIA_KIND_PICTURES


def decoding(rig: Rig) -> set[int]:
    """The processes that decode for its streams."""
    host = rig.app._host
    assert host is not None
    assert host._process is not None
    pid = host._process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def test_a_decoder_that_dies_costs_its_stream_one_picture() -> None:
    async with make_rig(decode_in="process") as rig:
        one, other = await rig.open("one", PICTURES), await rig.open("other", PICTURES)
        await send_pictures(one, range(3))
        await one.until(lambda call: len(rig.reasoner.shelf.of("one")) >= 1 + 2)
        mine = decoding(rig)
        assert len(mine) == 1
        await send_pictures(other, range(3))
        await other.until(lambda call: len(rig.reasoner.shelf.of("other")) >= 1 + 2)
        others = decoding(rig) - mine
        assert len(others) == 1, "each stream has a process of its own"
        os.kill(mine.pop(), signal.SIGSEGV)
        for call in (one, other):
            await send_pictures(call, range(3, 6))
            await call.send(end=END)
            await call.over()
        assert [(refused.error.code, refused.position) for refused in one.refused] == [("bad_media", 3)]
        assert not other.refused
        assert len(rig.reasoner.shelf.of("one")) == 1 + 5
        assert len(rig.reasoner.shelf.of("other")) == 1 + 6
        async with asyncio.timeout(10):
            while decoding(rig):  # noqa: ASYNC110 - they end with their streams
                await asyncio.sleep(0.02)
