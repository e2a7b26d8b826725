"""Shell. A running `tandem up` that faults are done to, a proxy in front of it, what its processes hold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.faults.proxy import Proxy
from bench.faults.table import HERE
from orchestrator.rundir import read_address
from tandem.client import connect
from tandem.client.connection import Client
from tandem.client.overview import Status
from tandem.core.errors import TandemError, Unavailable
from tandem.wire.channel import make_channel, parse_address

START_S = 120.0
"""For services to load their model on a busy machine."""
STOP_S = 40.0
ORCHESTRATOR = "orchestrator"
_COMMON = ("--model", "default", "--threads", "1", "--max-streams", "32", "--resume-seconds", "30")
_DISK = ("--data-dir", "{folder}/blocks", "--fsync-seconds", "0.1")
KINDS: dict[str, tuple[str, ...]] = {
    "disk": _DISK,
    "memory": (),
    "spare": (*_DISK, "--encoders", "2"),
    "small-disk": _DISK,
    "short-files": _DISK,
}
_INSIDE: dict[str, tuple[str, ...]] = {
    "small-disk": ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                   'mount -t tmpfs -o size=1m tandem-faults {folder}/blocks && exec "$@"', "sh"),
    "short-files": ("sh", "-c", 'ulimit -f 512 && exec "$@"', "sh"),
}  # fmt: skip
"""What the command line stands in: a file system of 1 MiB; files of at most 512 blocks of 512 bytes."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the system."""

    name: str
    pid: int
    descriptors: int


class System:
    """`tandem up` of one kind in a folder of its own. Use it with ``async with``."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.run_dir = folder / "run"
        self.blocks = folder / "blocks"
        self.address = ""
        """Past the proxy."""
        self.front = ""
        """Through it."""
        self.baseline: dict[str, int] = {}
        """Descriptors by name of process, at rest, after the first stream."""
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self.channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> System:
        self.blocks.mkdir(parents=True)
        (self.folder / "commands").mkdir()
        self._process = self._start()
        try:
            await self._come_up()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "up.log").open("wb") as log:
            return subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )

    async def _come_up(self) -> None:
        async with asyncio.timeout(START_S):
            while (address := read_address(self.run_dir)) is None:
                self._check_running()
                await asyncio.sleep(0.05)
        self.address = address
        self.channel = make_channel(address)
        self.proxy = Proxy(*parse_address(address))
        self.front = await self.proxy.start()
        await self.ready()

    async def __aexit__(self, *_: object) -> None:
        await self._forget_client()
        if self.channel is not None:
            await self.channel.close(None)
            await self.proxy.close()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_S)
            process.kill()
            process.wait()

    def _command(self) -> list[str]:
        words = [word.format(folder=self.folder) for word in (*_COMMON, *KINDS[self.kind])]
        line = [sys.executable, "-m", "orchestrator.up", "--listen", "127.0.0.1:0"]
        line += ["--run-dir", str(self.run_dir), *words]
        return [word.format(folder=self.folder) for word in _INSIDE.get(self.kind, ())] + line

    def _environment(self) -> dict[str, str]:
        path = [str(HERE / "poisoned"), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(word for word in path if word),
            "TANDEM_FAULT_DIR": str(self.folder / "commands"),
            "OMP_NUM_THREADS": "1",
        }

    def _check_running(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            tail = (self.folder / "up.log").read_text(errors="replace")[-2000:]
            raise Unavailable(f"the system ended with status {self._process.returncode}: {tail}")

    async def status(self) -> Status | None:
        """What the orchestrator says runs; None while it does not answer."""
        try:
            if self._client is None:
                self._client = await connect(self.address).__aenter__()
            return await self._client.status(timeout_s=1.0)
        except TandemError:
            await self._forget_client()  # a new connection is tried at once, an old one after a while
            return None

    async def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def ready(self) -> dict[str, int]:
        """Wait until every service is ready; process ids by name."""
        wanted = 3 if self.kind == "spare" else 2
        async with asyncio.timeout(START_S):
            while True:
                self._check_running()
                status = await self.status()
                pids = {} if status is None else pids_of(status)
                if len(pids) == wanted + 1:
                    return pids
                await asyncio.sleep(0.05)

    async def census(self) -> list[Process]:
        """The processes of the system, with what they hold open; those below `up`, found by the kernel."""
        names = {pid: name for name, pid in (await self.ready()).items()}
        assert self._process is not None
        found = descendants(self._process.pid)
        # A host of decoders is the encoder's; what it forked off for streams is not there at rest.
        names |= {pid: "decoder host" for pid in found if is_decoder_host(pid, names)}
        return [Process(names.get(pid, f"stranger {pid}"), pid, descriptors(pid)) for pid in found]

    async def at_rest(self, patience_s: float = 10.0) -> list[str]:
        """What is left behind: processes, descriptors. Empty once all is as it was; waits for that."""
        until_s = time.monotonic() + patience_s
        while True:
            left = _left(await self.census(), self.baseline)
            if not left or time.monotonic() > until_s:
                return left
            await asyncio.sleep(0.25)

    async def learn_rest(self) -> None:
        """Take what is held now for what a system at rest holds."""
        self.baseline = {process.name: process.descriptors for process in await self.census()}

    def command(self, pid: int, command: str) -> None:
        """Have a process do something to itself; see `bench/faults/poisoned/sitecustomize.py`."""
        (self.folder / "commands" / str(pid)).write_text(command)
        os.kill(pid, signal.SIGUSR1)


SPARE_DESCRIPTORS = 6
"""A connection more or less is no leak: channels are opened anew after a loss, and old ones linger."""


def _left(census: Sequence[Process], baseline: dict[str, int]) -> list[str]:
    left = [f"{process.name} is left" for process in census if process.name.startswith("stranger")]
    for process in census:
        most = baseline.get(process.name)
        if most is not None and process.descriptors > most + SPARE_DESCRIPTORS:
            left.append(f"{process.name} holds {process.descriptors} descriptors, {most} at rest")
    return left


def pids_of(status: Status) -> dict[str, int]:
    """Process ids of the orchestrator and of every service that is ready."""
    ready = {service.name: service.build.pid for service in status.services if service.state == "ready"}
    return {ORCHESTRATOR: status.build.pid, **ready}


def is_decoder_host(pid: int, services: Collection[int]) -> bool:
    """True for the process that a service of these forks decoders off; those have the same command line."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return False  # it has ended
    return b"encoder_svc.decode.host" in line and parent in services


def descendants(pid: int) -> list[int]:
    """Everything below a process, without itself."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        direct = [
            int(child)
            for task in tasks
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
    except OSError:
        return []
    return direct + [below for child in direct for below in descendants(child)]


def descriptors(pid: int) -> int:
    """How many a process holds; 0 once it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
