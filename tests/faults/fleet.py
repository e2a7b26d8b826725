"""An orchestrator and services that were started by themselves, each behind proxies; and how they are hurt.

Nobody here is a child of the orchestrator: what is killed is started again by this harness, as a pod would
be; what is frozen wakes up after a while; what is cut off is healed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from bench.faults.proxy import Proxy
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc

MODEL = "dummy:tiny-timestamped"
START_S = 120.0
"""For a service to load its model on a busy machine."""


class Process:
    """One program, started as often as it takes."""

    def __init__(self, name: str, line: Sequence[str], log: Path, tree: Path | None = None) -> None:
        """`tree`: where its code is, of another release; None: that of these tests."""
        self.name = name
        self.tree = tree
        self._line = [sys.executable, *line]
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = os.environ | ({"PYTHONPATH": str(self.tree)} if self.tree else {})
        with self._log.open("ab") as out:
            self._process = await asyncio.create_subprocess_exec(
                *self._line,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.tree,
                env=environment,
            )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and gone."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        await self._process.wait()

    async def ended(self, timeout_s: float) -> int:
        """Its exit status."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGCONT)
            with contextlib.suppress(ProcessLookupError):
                await self.kill()


class Inside:
    """A service in this process, with the interface of `Process` as far as it can be had."""

    def __init__(self, name: str, make: Any) -> None:
        self.name = name
        self._make = make
        self.app: Any = None

    async def start(self) -> None:
        self.app = self._make()
        await self.app.start()

    async def close(self) -> None:
        if self.app is not None:
            app, self.app = self.app, None
            with contextlib.suppress(TypeError):
                await app.stop(0.0)
                return
            await app.stop()


class Fleet:
    """Everything, by name: "orchestrator", "encoder-0", "reasoner-0" and so on."""

    def __init__(self, folder: Path, *, resume_s: int = 60, tree: Path | None = None) -> None:
        """`tree`: of the orchestrator, and of services that are not told another."""
        self.folder = folder
        self.tree = tree
        self.run_dir = folder / "run"
        self.data_dir = folder / "data"
        self._port = free_port()
        self.direct = f"127.0.0.1:{self._port}"
        """Where the orchestrator listens itself: for looking at it."""
        self.front = Proxy("127.0.0.1", self._port)
        """Where clients connect."""
        self.proxies: dict[str, list[Proxy]] = {"orchestrator": [self.front]}
        self.members: dict[str, Process | Inside] = {}
        line = ["-m", "orchestrator", "--listen", self.direct, "--run-dir", str(self.run_dir)]
        line += ["--resume-seconds", str(resume_s)]
        self.members["orchestrator"] = Process("orchestrator", line, folder / "orchestrator.log", tree)

    @property
    def secret_file(self) -> Path:
        return self.run_dir / "secret"

    async def start(self) -> None:
        """The orchestrator, and the way to it."""
        await self.front.start()
        await self.members["orchestrator"].start()
        async with asyncio.timeout(START_S):
            while not self.secret_file.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.02)

    async def add(self, name: str, *, inside: Any = None, disk: bool = True) -> None:
        """A service behind a proxy of its own. `inside(listen, advertise, orchestrator)` makes one here."""
        port = free_port()
        inbound, outbound = Proxy("127.0.0.1", port), Proxy("127.0.0.1", self._port)
        self.proxies[name] = [inbound, outbound]
        advertise, orchestrator = await inbound.start(), await outbound.start()
        listen = f"127.0.0.1:{port}"
        if inside is not None:
            self.members[name] = Inside(name, lambda: inside(listen, advertise, orchestrator))
        else:
            role = name.rpartition("-")[0]
            line = ["-m", f"{role}_svc", "--name", name, "--listen", listen, "--advertise", advertise]
            line += ["--orchestrator", orchestrator, "--secret-file", str(self.secret_file)]
            line += ["--model", MODEL, "--threads", "1"]
            if role == "reasoner" and disk:
                line += ["--data-dir", str(self.data_dir), "--fsync-seconds", "0.2"]
            self.members[name] = Process(name, line, self.folder / f"{name}.log", self.tree)
        await self.members[name].start()

    async def ready(self, *names: str) -> None:
        """Until these services are attached."""
        await self.until(lambda states: all(states.get(name) == "ready" for name in names))

    async def until(self, condition: Any, timeout_s: float = START_S) -> None:
        """Until `condition` holds of the services' states by name."""
        async with asyncio.timeout(timeout_s):
            while not condition(await self.states()):  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.05)

    async def states(self) -> dict[str, str]:
        """State of every service; empty while the orchestrator does not answer."""
        status = await self.call("GetStatus", client_pb2.GetStatusRequest())
        return {} if status is None else {service.name: service.state for service in status.services}

    async def boots(self) -> dict[str, str]:
        """Boot id of every service that is attached."""
        status = await self.call("GetStatus", client_pb2.GetStatusRequest())
        return {} if status is None else {s.name: s.build.boot_id for s in status.services}

    async def stream(self, stream_id: str) -> client_pb2.StreamSummary | None:
        """A stream as `tandem streams` shows it."""
        listed = await self.call("ListStreams", client_pb2.ListStreamsRequest())
        found = [each for each in listed.streams if each.stream_id == stream_id] if listed else []
        return found[0] if found else None

    async def call(self, method: str, request: Any) -> Any:
        """None when there was no answer in a moment."""
        import grpc

        async with make_channel(self.direct) as channel:
            stub = client_pb2_grpc.TandemServiceStub(channel)
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await getattr(stub, method)(request, timeout=1.0)
        return None

    async def close(self) -> None:
        for member in reversed(list(self.members.values())):
            await member.close()
        for proxies in self.proxies.values():
            for proxy in proxies:
                await proxy.close()


@contextlib.asynccontextmanager
async def fleet(folder: Path, **options: Any) -> AsyncIterator[Fleet]:
    """A fleet with an orchestrator and nothing else."""
    made = Fleet(folder, **options)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def free_port() -> int:
    """One that nobody listens on, and that the kernel gives to nobody who asks for any.

    Seconds pass until the service listens, and every time it is started again; tests beside this one open
    connections all the while.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        # Another fleet does the same: not in any order.
        port = random.randrange(max(lowest // 2, 1024), max(lowest, 2048))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def now_s() -> float:
    return time.monotonic()
