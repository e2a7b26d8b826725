"""Shell: the actor of one service. On the node that Ray chose it runs the service's command as its child.

The service inside is the one that the local backend starts, with the same protocol: Ray moves no data and
judges no health. The child is forked from a thread that lives as long as the actor's process, and ends with
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.backends import ray_groups
from orchestrator.backends.base import Wanted
from orchestrator.backends.local import Child
from orchestrator.backends.process import STOP_GRACE_S
from orchestrator.backends.ray_plan import ServiceSpec, own_arguments, run_of, trace_environment
from orchestrator.membership import Role
from orchestrator.rundir import make_private

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = STOP_GRACE_S + 2.0
"""For `stop`: the child's grace, and what killing it takes."""
_SAID = 64
"""Words kept for an orchestrator that does not listen just now."""
_LOOK_S = 1.0
_AGAIN_S = 10.0


class ServiceActor:
    """Keeps one service running. Made by Ray, again after every loss of its process or node.

    All methods return at once but `adopt` and `stop`, which wait for the child's end.
    """

    def __init__(self, spec_text: str) -> None:
        """`spec_text`: of a `ServiceSpec`. A later one comes by `adopt`."""
        self._spec = ServiceSpec.from_text(spec_text)
        self._me = _Place()
        self._own = trace_environment(os.environ)
        """What this node says of traces; a spec may say otherwise."""
        self._heard_s = time.monotonic()
        self._said: deque[str] = deque(maxlen=_SAID)
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._is_orphan = False
        self._changing = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="service", daemon=True).start()

    def look(self) -> str:
        """JSON: ``digest`` of its spec, ``said`` since the last look, ``node``, and of the child ``pid`` and
        ``ending``, how its last process ended.
        """
        self._heard_s = time.monotonic()
        said = [self._said.popleft() for _ in range(len(self._said))]
        child = self._child
        about = {"pid": child.pid if child else None, "ending": child.ending if child else ""}
        return json.dumps({"digest": self._spec.digest, "said": said, "node": self._me.ip} | about)

    def adopt(self, spec_text: str) -> None:
        """Run what this spec says instead. Raises `InvalidInput` for one of another release."""
        self._heard_s = time.monotonic()
        spec = ServiceSpec.from_text(spec_text)
        self._wait_for(self._change(spec))

    def ready(self) -> None:
        """The service attached to the orchestrator."""
        self._loop.call_soon_threadsafe(self._with_child, Child.ready)

    def replace(self, reason: str) -> None:
        """The service is frozen or cut off: kill this start of it."""
        self._loop.call_soon_threadsafe(self._with_child, lambda child: child.kill(reason))

    def stop(self) -> None:
        """End the child in order and for good; the actor's process is ended by the caller."""
        self._wait_for(self._end_for_good())

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_TIMEOUT_S)

    def _with_child(self, do: Callable[[Child], None]) -> None:
        if self._child is not None:
            do(self._child)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._watching = self._loop.create_task(self._end_when_orphaned())
        self._loop.call_soon(self._begin)
        self._loop.run_forever()

    def _say(self, text: str) -> None:
        self._said.append(f"{text} (node {self._me.ip})")

    def _begin(self) -> None:
        self._keeping = self._loop.create_task(self._keep())

    async def _change(self, spec: ServiceSpec) -> None:
        async with self._changing:
            await self._end_child()
            self._spec, self._is_orphan = spec, False
            self._begin()

    async def _end_for_good(self) -> None:
        async with self._changing:
            self._watching.cancel()
            await self._end_child()

    async def _keep(self) -> None:
        """Until cancelled, whatever goes wrong with files and processes of this node."""
        while True:
            try:
                _end_predecessors(_secret_file(self._spec))
                self._child = self._make_child()
                await self._child.run()
            except Exception as error:
                log.exception("%s cannot be started", self._spec.name)
                self._say(f"{self._spec.name} cannot be started: {error}; trying again in {_AGAIN_S:g} s")
            await asyncio.sleep(_AGAIN_S)

    def _make_child(self) -> Child:
        spec = self._spec
        _set_environment(spec.uses_gpu, self._own | dict(spec.environment))
        host = "127.0.0.1" if spec.only_this_host else self._me.ip
        secret_file = _write_private(_secret_file(spec), spec.secret)
        # The last one of an option counts.
        line = [sys.executable, *spec.arguments, *own_arguments(spec, host)]
        line += ["--secret-file", str(secret_file)]
        log_file = _folder(spec.run) / "logs" / f"{spec.name}.log"
        return Child(Wanted(spec.name, Role(spec.role)), line, log_file, self._say)

    async def _end_child(self) -> None:
        keeping, self._keeping, self._child = self._keeping, None, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait([keeping])
        _secret_file(self._spec).unlink(missing_ok=True)

    async def _end_when_orphaned(self) -> None:
        """For a run whose orchestrator does not come back. The first of its actors by name goes last.

        It takes the placement groups with it, so that nothing stays reserved.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                async with self._changing:
                    await self._end_or_begin_again(time.monotonic() - self._heard_s)
                if self._is_orphan:
                    await asyncio.to_thread(self._me.leave, self._spec.run, self._spec.name)
            except Exception:
                log.exception("%s could not end yet", self._spec.name)

    async def _end_or_begin_again(self, silent_s: float) -> None:
        if silent_s < self._spec.orphan_s:
            if self._is_orphan:
                self._is_orphan = False
                self._begin()
        elif not self._is_orphan:
            log.warning("%s: no orchestrator for %.0f s; it ends", self._spec.name, silent_s)
            await self._end_child()
            self._is_orphan = True


class _Place:
    """Where an actor is. Made in the actor's main thread: only there Ray knows the current actor."""

    def __init__(self) -> None:
        import ray

        self.ip: str = ray.util.get_node_ip_address()
        self._actor = ray.get_runtime_context().current_actor

    def leave(self, run: str, name: str) -> None:
        """End this actor, unless it should be the last and others are there still."""
        import ray

        named = ray.util.list_named_actors(all_namespaces=True)
        others = [actor["name"] for actor in named if actor["namespace"] == run and actor["name"] != name]
        if others and name < min(others):
            return
        if not others:
            ray_groups.remove([group for group in ray_groups.table().values() if run_of(group.name) == run])
        ray.kill(self._actor)


def _set_environment(uses_gpu: bool, of_traces: Mapping[str, str]) -> None:
    """Of the child: the code that runs here, no GPU that was not reserved, and where its traces go."""
    for name in trace_environment(os.environ):
        del os.environ[name]
    os.environ.update(of_traces)
    code = str(Path(orchestrator.__file__).resolve().parent.parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != code]
    os.environ["PYTHONPATH"] = os.pathsep.join([code, *paths])
    if not uses_gpu:
        # Ray leaves it unset where no GPU was asked for, and unset means all of them.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _folder(run: str) -> Path:
    """Logs and secrets of a run's services on this node; private."""
    parent = Path(tempfile.gettempdir()) / f"tandem-{os.getuid()}"
    make_private(parent)
    make_private(parent / run)
    return parent / run


def _secret_file(spec: ServiceSpec) -> Path:
    return _folder(spec.run) / f"secret-{spec.name}"


def _end_predecessors(secret_file: Path) -> None:
    """Kill what a former actor of this service left: a child that was frozen did not end with it.

    One that is only slow to end would hold memory and the streams' files when the next one wants them.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(secret_file) in path.read_bytes().split(b"\0"):
                pid = int(path.parent.name)
                log.warning("pid %d is left of a former actor; killing it", pid)
                os.kill(pid, signal.SIGKILL)


def _write_private(path: Path, text: str) -> Path:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return path
