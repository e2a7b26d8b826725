"""Shell: services as child processes of the orchestrator on this machine.

Each child has its own process group (Ctrl-C in the terminal is ours to act on, not theirs), its own log file
in the run directory, and ends with us. What dies is started again with back-off; what is frozen is killed.
With `standby` a second process of each waits in reserve with its model loaded, and takes over at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.backends.base import Wanted, services
from orchestrator.backends.process import end, spawn
from orchestrator.backends.remedies import explain
from orchestrator.backends.reserve import Reserve
from orchestrator.backends.restarts import restart
from orchestrator.config import ServiceSettings
from orchestrator.membership import Role
from orchestrator.memory import flags as memory_flags
from orchestrator.thinking import flags as thinking_flags
from orchestrator.waiting import stop

log = logging.getLogger(__name__)

_MODULES = {Role.ENCODER: "encoder_svc", Role.REASONER: "reasoner_svc"}
_TAIL_LINES = 12
_TAIL_BYTES = 8192

LEAST_STREAMS = 1024
"""That a service is allowed to hold, however few the orchestrator lets in."""

Say = Callable[[str], None]


def command(
    wanted: Wanted, orchestrator: str, secret_file: Path, settings: ServiceSettings, metrics: str = ""
) -> list[str]:
    """The command line of one service; `metrics`: where it serves its own, empty: nowhere."""
    line = [sys.executable, "-m", _MODULES[wanted.role], "--die-with-parent"]
    line += ["--listen", "127.0.0.1:0", "--name", wanted.name, "--orchestrator", orchestrator]
    line += ["--secret-file", str(secret_file), "--model", settings.model, "--device", settings.device]
    line += ["--log-level", settings.log_level, "--log-format", settings.log_format]
    # Who is let in is decided at the door. A service holds more than that for a while: streams that move,
    # that have just ended, that wait for a client which may come back.
    line += ["--max-streams", str(max(2 * settings.max_streams, LEAST_STREAMS))]
    if metrics:
        line += ["--metrics", metrics]
    line += settings.tls.flags()
    if settings.revision:
        line += ["--revision", settings.revision]
    if settings.dtype:
        line += ["--dtype", settings.dtype]
    if settings.threads:
        line += ["--threads", str(settings.threads)]
    if wanted.role is Role.REASONER:
        return line + memory_flags(settings.memory) + thinking_flags(settings.thinking)
    line += ["--decode-in", settings.decode_in]
    line += ["--embedder", settings.memory.embedder, "--block-codec", settings.memory.block_codec]
    if settings.window_units:
        line += ["--window-units", str(settings.window_units)]
    return line


class Child:
    """One wanted service, started as often as it takes."""

    def __init__(
        self, wanted: Wanted, line: Sequence[str], log_file: Path, say: Say, reserve: Reserve | None = None
    ) -> None:
        self.wanted = wanted
        self._line = line
        self._log_file = log_file
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._failures = 0
        self._started_s = 0.0
        self._why = ""
        self._reserve = reserve
        self.is_ready = False
        self.ending = ""
        """How its last process ended; empty: none did."""

    @property
    def pid(self) -> int | None:
        """Process id of the present start."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep it running until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._started_s, self.is_ready = loop.time(), False
                self._say(f"starting {self.wanted.name} …")
                code = await self._run_once()
                self._report(code)
                self._failures += 1
                again = restart(self._failures)
                if again.reason:
                    self._say(f"{self.wanted.name} {again.reason}")
                await asyncio.sleep(again.wait_s)
        finally:
            await self._end()
            if self._reserve is not None:
                await self._reserve.close()

    def ready(self) -> None:
        """It attached."""
        if not self.is_ready:
            took_s = asyncio.get_running_loop().time() - self._started_s
            self._say(f"{self.wanted.name} is ready in {took_s:.1f} s")
        self.is_ready, self._failures = True, 0
        if self._reserve is not None:
            self._reserve.fill()

    def kill(self, reason: str) -> None:
        """End the present start at once; `run` starts another."""
        if self._process is not None and self._process.returncode is None:
            self._why = reason
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _run_once(self) -> int:
        self._process = await self._reserve.take() if self._reserve is not None else None
        if self._process is None:
            self._process = await spawn(self._line, self._log_file, f"{self.wanted.name} starts")
        log.info("%s has pid %d", self.wanted.name, self._process.pid)
        return await self._process.wait()

    def _report(self, code: int) -> None:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self.ending = f"{how}: {self._why}" if self._why else how
        self._say(
            f"{self.wanted.name} ended ({how}){': ' + self._why if self._why else ''}; starting it again"
        )
        if not self._why and code > 0:
            tail = _tail(self._log_file)
            self._say(explain(self.wanted.name, tail, self._log_file))
        self._why = ""

    async def _end(self) -> None:
        if self._process is not None:
            await end(self._process, self.wanted.name)


class LocalBackend:
    """All children of this orchestrator."""

    def __init__(
        self,
        *,
        encoders: int,
        reasoners: int,
        settings: ServiceSettings,
        secret_file: Path,
        log_dir: Path,
        say: Say,
        standby: bool = False,
    ) -> None:
        self._standby = standby
        self._wanted = services(encoders=encoders, reasoners=reasoners)
        self._settings = settings
        self._secret_file = secret_file
        self._log_dir = log_dir
        self._say = say
        self._children: dict[str, Child] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What runs."""
        return self._wanted

    @property
    def endings(self) -> dict[str, str]:
        """How the last process of each child ended that was started more than once."""
        return {name: child.ending for name, child in self._children.items() if child.ending}

    def pid(self, name: str) -> int | None:
        """Process id of a child, or None while it is not running."""
        child = self._children.get(name)
        return child.pid if child else None

    async def start(self, orchestrator: str) -> None:
        """Start everything."""
        for index, wanted in enumerate(self._wanted, 1):
            metrics = port_after(self._settings.metrics, index)
            line = command(wanted, orchestrator, self._secret_file, self._settings, metrics)
            log_file = self._log_dir / f"{wanted.name}.log"
            reserve = Reserve(line, log_file, wanted.name) if self._standby else None
            child = Child(wanted, line, log_file, self._say, reserve)
            self._children[wanted.name] = child
            self._tasks.append(asyncio.create_task(child.run(), name=f"child {wanted.name}"))

    def ready(self, name: str) -> None:
        """A child attached."""
        if name in self._children:
            self._children[name].ready()

    def replace(self, name: str, reason: str) -> None:
        """Kill a child that is lost."""
        if name in self._children:
            self._children[name].kill(reason)

    async def stop(self) -> None:
        """Stop all children, side by side."""
        tasks, self._tasks = self._tasks, []
        await stop(*tasks)


def port_after(address: str, count: int) -> str:
    """The same host, so many ports further; any free port stays that, and nothing stays nothing."""
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + count if int(port) else 0}"


def _tail(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - _TAIL_BYTES, 0))
        text = file.read().decode(errors="replace")
    return text.splitlines()[-_TAIL_LINES:]
