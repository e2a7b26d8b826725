"""Links over real gRPC, and against a process that dies or freezes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kv_transfer.base import LinkConfig, Outcome
from kv_transfer.lanes.base import LaneBroken
from kv_transfer.link import Link
from kv_transfer.memory import DictStore, random_block
from tandem.core.errors import Incompatible, Unavailable
from tandem.core.ids import StreamId
from tandem.core.transfer import FrameClass, LaneKind
from tandem.wire.channel import make_channel
from tandem.wire.transfer import ClientControlChannel
from tests.contract.lane_pairs import lane_pair, make_end, make_frame, make_ticket
from tests.unit.kv_transfer.transfer_process import serve

ROOT = Path(__file__).parents[3]
REAL_LANES = pytest.mark.parametrize("kind", [LaneKind.SHM, LaneKind.GLOO])


def make_link(channel, kind: LaneKind, epoch: int = 1, **config: object) -> Link:  # type: ignore[no-untyped-def]
    store = DictStore()
    return Link(
        ClientControlChannel(channel),
        hello=make_end("encoder-0", ticket=make_ticket(epoch)),
        sink=store,
        source=store,
        config=LinkConfig(lanes=(kind,), **config),  # type: ignore[arg-type]
        initiator=True,
    )


@REAL_LANES
async def test_three_links_after_each_other_over_grpc(kind: LaneKind) -> None:
    server, address, servicer = await serve(kind)
    channel = make_channel(address)
    try:
        for epoch in (1, 2, 3):
            link = make_link(channel, kind, epoch)
            await link.start()
            (result,) = await link.send([random_block(epoch)], timeout_s=5)
            assert result.outcome is Outcome.PUBLISHED
            fetched = await link.fetch(StreamId("stream"), range(1, epoch + 1), timeout_s=5)
            assert len(fetched) == epoch
            await link.close("goodbye")
        async with asyncio.timeout(5):
            while len(servicer.ended) < 3:  # noqa: ASYNC110 - the servicer knows no events
                await asyncio.sleep(0.01)
        assert servicer.ended == ["the peer says: goodbye"] * 3
        stranger = Link(
            ClientControlChannel(channel),
            hello=make_end("encoder-0", ticket=make_ticket(9), fingerprint="1" * 32),
            sink=DictStore(),
            source=None,
            initiator=True,
        )
        with pytest.raises(Incompatible):
            await stranger.start()
    finally:
        await channel.close(0.5)
        await server.stop(0.5)


async def test_nobody_listens() -> None:
    channel = make_channel("127.0.0.1:1")
    link = make_link(channel, LaneKind.GLOO)
    with pytest.raises(Unavailable):
        await link.start()
    await channel.close(0.5)


@contextmanager
def reasoner(kind: LaneKind, meet_in: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "tests.unit.kv_transfer.transfer_process", kind.value, str(meet_in)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@REAL_LANES
@pytest.mark.parametrize(("how", "within_s"), [(signal.SIGKILL, 2.0), (signal.SIGSTOP, 4.0)])
async def test_a_peer_that_dies_or_freezes(
    kind: LaneKind, how: signal.Signals, within_s: float, tmp_path: Path
) -> None:
    with reasoner(kind, tmp_path) as (process, address):
        channel = make_channel(address)
        # Gloo forgets what it was writing when the connection ended, but nobody waits for its deadline.
        link = make_link(
            channel,
            kind,
            heartbeat_s=0.5,
            heartbeat_misses=3,
            frame_timeout_s=60.0,
            shm_directory=str(tmp_path),
        )
        await link.start()
        assert (await link.send([random_block(0)], timeout_s=5))[0].ok
        blocks = [random_block(n, layers=8, tokens=2000, head_dim=64, kv_heads=4) for n in range(1, 9)]
        sending = asyncio.create_task(link.send(blocks, timeout_s=20))
        await asyncio.sleep(0.01)
        process.send_signal(how)
        start = time.monotonic()
        closed = await asyncio.wait_for(link.closed, 15)
        assert time.monotonic() - start < within_s
        assert isinstance(closed.error, Unavailable)
        results = await sending
        assert all(result.ok or isinstance(result.error, Unavailable) for result in results)
        await channel.close(0.5)
    assert os.listdir(tmp_path) == []


def test_gloo_survives_a_frame_of_the_wrong_size() -> None:
    """A longer message than was posted would end the process, so sizes are told apart before."""
    landed = torch.zeros(100, dtype=torch.uint8)
    with lane_pair(LaneKind.GLOO) as (sender, receiver):
        receiver.post(make_frame(FrameClass.S.size_bytes, (landed,)))
        sender.put(make_frame(FrameClass.M.size_bytes, (torch.ones(200_000, dtype=torch.uint8),)), 1.0)
        with pytest.raises(LaneBroken):
            receiver.take(0.3)
    assert not landed.any()
    assert os.getpid()
