"""The Ray that `tandem up` starts itself: it comes back when it dies, and goes when `up` goes."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest

from tandem.wire.channel import make_channel
from tests.integration.ray_nodes import descendants, is_gone
from tests.integration.up_processes import Front, Up, ask, push

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'"),
]


def head_of(up: Up) -> int:
    for pid in descendants(up.process.pid):
        if b"ray_head" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no Ray")


async def answered(front: Front, stream: str) -> None:
    client = await front.watch(stream)
    await push(client, 0, 4)
    answer = await ask(client, "q")
    assert answer.error.code == "", answer.error
    assert answer.evidence.blocks == 2
    await client.end(forget=True)
    await client.finished(30)


async def test_it_is_started_again_and_leaves_nothing(tmp_path: Path) -> None:
    up = Up(tmp_path / "run", "--backend", "ray", "--pack-pairs")
    started: set[int] = set()
    try:
        async with make_channel(up.address()) as channel:
            front = Front(channel)
            await front.ready()
            await answered(front, "before")
            former = {name: await front.pid(name) for name in ("encoder-0", "reasoner-0", "orchestrator")}
        started.update(descendants(up.process.pid))
        began_s = time.monotonic()
        os.kill(head_of(up), signal.SIGKILL)
        assert all(is_gone(former[name], 30) for name in ("encoder-0", "reasoner-0"))
        assert is_gone(former["orchestrator"], 60), "a driver of a Ray that is gone"
        print(f"Ray killed: its driver ended after {time.monotonic() - began_s:.1f} s")
        async with make_channel(up.address()) as channel:
            front = Front(channel)
            await front.ready()
            print(f"Ray killed: services ready again after {time.monotonic() - began_s:.1f} s")
            await answered(front, "after")
        started.update(descendants(up.process.pid))
    finally:
        status = up.stop()
    assert status == 0
    assert [pid for pid in started if not is_gone(pid, 5)] == []
