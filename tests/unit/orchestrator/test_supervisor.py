"""Who watches over services does not fall asleep when something in what it calls breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.backends.base import NoBackend
from orchestrator.backlog import Bounds
from orchestrator.cluster import Cluster
from orchestrator.journal import Journal
from orchestrator.limits import Limits
from orchestrator.membership import Identity, Role
from orchestrator.settings import SessionSettings
from orchestrator.streams import Streams
from orchestrator.supervisor import Supervisor
from tandem.core.clock import monotonic_clock
from tandem.wire.gen.tandem.v1 import types_pb2


class Broken(NoBackend):
    """Trips over one name."""

    def ready(self, name: str) -> None:
        if name == "first":
            raise KeyError(name)


async def test_a_mistake_about_one_service_does_not_hide_the_next(tmp_path: Path) -> None:
    cluster = Cluster(b"s" * 32, 3.0, 1.0, monotonic_clock)
    streams = Streams(
        cluster, Journal(tmp_path), SessionSettings(limits=Limits(), bounds=Bounds()), monotonic_clock, 8
    )
    supervisor = Supervisor(cluster, streams, Broken())
    supervisor.start()
    try:
        for number, name in enumerate(("first", "second"), 1):
            who = Identity(name=name, role=Role.ENCODER, address="127.0.0.1:9", boot_id="b", fingerprint="f")
            cluster.attach(who, types_pb2.BuildInfo(), types_pb2.ModelInfo())
            async with asyncio.timeout(5):
                while len(supervisor.ready) < number:
                    await supervisor.changed.wait()
    finally:
        await supervisor.close()
        await streams.close()
        await cluster.close()
