"""Shell: services as Ray actors. It looks after the actors; each of them looks after its service.

They outlive this process: the next orchestrator of the same run directory finds them by name. Only `stop`
ends them. All calls of Ray are made by one thread, so that none holds up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from orchestrator.backends.base import Wanted
from orchestrator.backends.ray_cluster import Dead, Look, RayCluster, need_ray
from orchestrator.backends.ray_groups import GroupState
from orchestrator.backends.ray_guard import check_guarded, is_off
from orchestrator.backends.ray_plan import Group, ServiceSpec, check_reach, groups, run_name, run_of, specs
from orchestrator.backends.ray_rules import SAY_WAITING_S, Do, Leftovers, Seen, decide, waiting
from orchestrator.backends.ray_settings import RaySettings
from orchestrator.backends.restarts import restart
from orchestrator.config import ServiceSettings
from orchestrator.waiting import stop
from tandem.core.clock import Clock
from tandem.core.errors import TandemError, Unavailable

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_ANSWER_S = 0.5
"""For the actors to answer one look; who is late answers the next."""
_CONNECT_AGAIN_S = 5.0
_LEFTOVERS_S = 10.0
_STOP_S = 8.0
"""For the services to end in order: less than `tandem up` waits for the orchestrator."""

Say = Callable[[str], None]
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(slots=True)
class _Watch:
    """What is remembered of one actor between looks; seconds of the clock."""

    heard_s: float
    """It answered then, or had no room yet."""
    creations: int = 0
    """Since an actor answered."""
    create_at_s: float = 0.0
    roomless_since_s: float | None = None
    said_waiting: bool = False


class RayBackend:
    """All services of this orchestrator on Ray."""

    def __init__(
        self,
        *,
        wanted: tuple[Wanted, ...],
        settings: ServiceSettings,
        ray: RaySettings,
        secret: bytes,
        is_ready: Callable[[str], bool],
        say: Say,
        clock: Clock,
    ) -> None:
        """`secret`: of the cluster; text. `is_ready`: whether a service of that name is attached."""
        self._wanted = wanted
        self._settings = settings
        self._ray = ray
        self._secret = secret
        self._is_ready = is_ready
        self._say = say
        self._clock = clock
        self._run = run_name(secret)
        self._plan = {
            member.name: group
            for group in groups(self._run, wanted, ray, settings.device)
            for member in group.members
        }
        self._specs: dict[str, ServiceSpec] = {}
        self._watches: dict[str, _Watch] = {}
        self._leftovers = Leftovers(self._run)
        self._leftovers_due_s = 0.0
        self._cluster = RayCluster(self._run)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ray")
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._trouble = ""
        self._endings: dict[str, str] = {}

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What runs."""
        return self._wanted

    @property
    def endings(self) -> Mapping[str, str]:
        """How the last process of each service ended, or its actor, of those of which one did."""
        return self._endings

    async def start(self, orchestrator: str) -> None:
        """Join Ray, take over what runs there from a former orchestrator, and start what is missing.

        Where Ray does not answer it is tried again for as long as it takes.

        Raises:
            PermissionRefused: that Ray is open to everybody, or takes no orders from us.
            InvalidInput: not all of its nodes would reach `orchestrator`.
            Incompatible: it is of another version.
            Unavailable: the extra `ray` is not installed.
        """
        planned = list(dict.fromkeys(self._plan.values()))
        self._specs = specs(
            self._run, planned, orchestrator, self._secret.decode(), self._settings, self._ray, os.environ
        )
        if not self._ray.insecure and not is_off(os.environ):
            os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported
        await self._call(need_ray)
        try:
            await self._connect(orchestrator)
        except Unavailable as error:
            self._tell_trouble(error)
        self._task = asyncio.create_task(self._look_forever(orchestrator), name="ray")

    def ready(self, name: str) -> None:
        """A service attached."""
        if name in self._plan:
            self._later(name, "ready")

    def replace(self, name: str, reason: str) -> None:
        """Have a service that is lost killed; where its actor is lost as well, the next looks find out."""
        if name in self._plan:
            self._later(name, "replace", reason)

    async def stop(self) -> None:
        """End the services in order, then their actors, and give back what was reserved."""
        if self._task is not None:
            await stop(self._task)
        if self._connected:
            try:
                await self._call(self._end_all)
            except TandemError as error:
                self._say(f"services may still run on Ray ({error.message}); they end by themselves")
            await self._call(self._cluster.close)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _connect(self, orchestrator: str) -> None:
        await check_guarded(self._ray.address, self._ray.insecure, os.environ)
        await self._call(self._cluster.connect, self._ray.address)
        here, nodes = await self._call(self._cluster.nodes)
        check_reach(orchestrator, here, nodes)
        await self._call(self._take_over)
        now_s = self._clock()
        self._watches = {name: _Watch(now_s) for name in self._plan}
        self._connected = True

    def _take_over(self) -> None:
        """Keep what a former orchestrator of this run started, unless it is laid out differently now."""
        planned = {group.name for group in self._plan.values()}
        mine = [group for group in self._cluster.groups().values() if run_of(group.name) == self._run]
        stale = [group for group in mine if group.name not in planned]
        names = [name for namespace, name in self._cluster.named() if namespace == self._run]
        found = [name for name in names if name in self._plan and not stale]
        if stale:
            self._say("the services on Ray were laid out for other options; they start anew")
        elif found:
            self._say(f"found on Ray: {', '.join(sorted(found))}")
        gone = set(names) - set(found)
        self._cluster.stop(gone, _STOP_S)
        self._cluster.wait_gone(gone, _STOP_S)
        self._cluster.remove_groups(stale)

    def _end_all(self) -> None:
        self._cluster.stop(list(self._plan), _STOP_S)
        mine = [group for group in self._cluster.groups().values() if run_of(group.name) == self._run]
        self._cluster.remove_groups(mine)

    async def _look_forever(self, orchestrator: str) -> None:
        while True:
            try:
                if not self._connected:
                    await self._connect(orchestrator)
                await self._look()
                if self._trouble:
                    self._say("Ray answers again")
                    self._trouble = ""
            except TandemError as error:
                self._tell_trouble(error)
            except Exception:
                log.exception("a look at Ray failed; the next one comes")
            await asyncio.sleep(_LOOK_S if self._connected else _CONNECT_AGAIN_S)

    def _tell_trouble(self, error: TandemError) -> None:
        if not self._trouble:
            self._say(f"WARNING: {error.message}; trying again")
        self._trouble = error.message
        log.info("%s", error)

    async def _look(self) -> None:
        looks = await self._call(self._cluster.look, list(self._plan), _ANSWER_S)
        states = await self._call(self._cluster.groups)
        for name, group in self._plan.items():
            look = looks.get(name)
            if isinstance(look, Dead):
                self._say(f"the actor of {name} died: {look.reason}")
                self._endings[name] = f"its actor died: {look.reason}"
                del looks[name]
                look = None
            await self._look_at(name, group, name in looks, look, states)
        now_s = self._clock()
        if now_s >= self._leftovers_due_s:
            self._leftovers_due_s = now_s + _LEFTOVERS_S
            await self._remove_leftovers(states, now_s)

    async def _look_at(
        self, name: str, group: Group, exists: bool, look: Look | None, states: dict[str, GroupState]
    ) -> None:
        watch, now_s, state = self._watches[name], self._clock(), states.get(group.name)
        for text in look.said if look else ():
            self._say(text)
        has_room = state is not None and state.has_room
        if look is not None or not has_room:
            watch.heard_s = now_s
        if look is not None:
            watch.creations, watch.create_at_s = 0, 0.0
            if look.ending:
                self._endings[name] = f"{look.ending} (node {look.node})"
        seen = Seen(
            exists=exists,
            create_in_s=watch.create_at_s - now_s,
            digest=look.digest if look else None,
            has_group=state is not None,
            has_room=has_room,
            silent_s=now_s - watch.heard_s,
            is_ready=self._is_ready(name),
        )
        decision = decide(seen, self._specs[name].digest)
        if decision.do is not Do.NOTHING:
            log.info("%s: %s: %s", name, decision.do, decision.reason)
        match decision.do:
            case Do.CREATE:
                self._say(f"asking Ray for {name} …")
                await self._create(name, group, states)
                watch.heard_s, watch.creations = now_s, watch.creations + 1
                watch.create_at_s = now_s + restart(watch.creations).wait_s
            case Do.ADOPT:
                await self._call(self._cluster.tell, name, "adopt", self._specs[name].to_text())
            case Do.REPLACE:
                self._say(f"{name} is given up: {decision.reason}")
                await self._call(self._cluster.kill, name)
                await self._call(self._cluster.wait_gone, [name], _ANSWER_S)
                watch.heard_s = now_s
            case Do.NOTHING:
                pass
        await self._mention(name, group, watch, has_room)

    async def _create(self, name: str, group: Group, states: dict[str, GroupState]) -> None:
        if group.name not in states:
            await self._call(self._cluster.make_group, group)
            states.update(await self._call(self._cluster.groups))
        if group.name in states:  # else the next look finds it
            await self._call(self._cluster.create, self._specs[name], group, states[group.name])

    async def _mention(self, name: str, group: Group, watch: _Watch, has_room: bool) -> None:
        """Once, when a service finds no room."""
        if has_room:
            watch.roomless_since_s, watch.said_waiting = None, False
            return
        now_s = self._clock()
        if watch.roomless_since_s is None:
            watch.roomless_since_s = now_s
        elif not watch.said_waiting and now_s - watch.roomless_since_s > SAY_WAITING_S:
            watch.said_waiting = True
            self._say(waiting(name, group.bundle, await self._call(self._cluster.free)))

    async def _remove_leftovers(self, states: dict[str, GroupState], now_s: float) -> None:
        alive = {namespace for namespace, _ in await self._call(self._cluster.named)}
        if names := self._leftovers.due(now_s, states, alive):
            self._say(f"removing what a dead run reserved on Ray: {', '.join(names)}")
            await self._call(self._cluster.remove_groups, [states[name] for name in names])

    def _later(self, name: str, method: str, *arguments: str) -> None:
        def tell() -> None:
            with contextlib.suppress(Unavailable):  # the looks say so
                self._cluster.tell(name, method, *arguments)

        if self._connected:
            self._thread.submit(tell)

    async def _call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
