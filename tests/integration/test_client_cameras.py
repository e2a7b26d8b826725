"""Sources that come at their own pace: a camera over RTSP, a transport stream over TCP."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from pathlib import Path

import av
import pytest

import tandem
from tandem.client import MediaKind
from tandem.client.sources import feed, open_source
from tests.integration.rtsp_camera import camera
from tests.integration.scripted_server import Script, serve
from tests.unit.client.media_files import write_video


async def test_a_camera_over_rtsp(tmp_path: Path) -> None:
    # Parameter sets before every key frame, as cameras send them.
    options = {"g": "5", "bf": "0", "x264-params": "repeat-headers=1:scenecut=0"}
    path = write_video(tmp_path / "clip.ts", frames=50, options=options)
    with camera(path) as url:
        source = await asyncio.to_thread(open_source, url)
        assert source.live
        assert source.media.kind is MediaKind.MPEG_TS
        async with serve(Script()) as (address, server), tandem.connect(address) as t:
            began = time.monotonic()
            async with t.watch(source, stream_id="cam") as stream:
                fed = await feed(stream, source)
            # It came at the camera's pace, and was not paced again.
            assert 2.0 < time.monotonic() - began < 10.0
            assert fed.pieces >= 45
            with av.open(io.BytesIO(bytes(server.streams["cam"].media))) as file:
                assert len(list(file.decode(video=0))) >= 45


async def test_a_transport_stream_over_tcp(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.ts")
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with listener, listener.accept()[0] as connection:
            connection.sendall(path.read_bytes())

    threading.Thread(target=send, daemon=True).start()
    source = await asyncio.to_thread(open_source, f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    async with serve(Script()) as (address, _), tandem.connect(address) as t, t.watch(source) as stream:
        fed = await feed(stream, source)
    assert (fed.pieces, fed.error) == (50, None)


@pytest.mark.parametrize("closes_after_s", [0.3])
async def test_closing_stops_a_camera(tmp_path: Path, closes_after_s: float) -> None:
    path = write_video(tmp_path / "clip.ts", frames=200, options={"g": "5", "bf": "0"})
    with camera(path) as url:
        source = await asyncio.to_thread(open_source, url)
        async with serve(Script()) as (address, _), tandem.connect(address) as t, t.watch(source) as stream:
            asyncio.get_running_loop().call_later(closes_after_s, source.close)
            async with asyncio.timeout(10):
                fed = await feed(stream, source)
            assert fed.error is None
