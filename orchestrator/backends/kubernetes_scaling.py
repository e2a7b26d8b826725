"""Shell: has the number of pods decided for each workload, every few seconds, and does what was decided.

Decides in `orchestrator/autoscaling.py`. A number is changed only as the one that was read for the decision:
of two who scale, the slower is told of the conflict and decides anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from orchestrator.autoscaling import Action, Autoscaler, Decision, Told
from orchestrator.backends.base import Wanted
from orchestrator.backends.kubernetes_api import Conflict, KubeApi
from orchestrator.backends.kubernetes_pods import PodTable, names, services_of, workload
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.cluster import Cluster
from orchestrator.membership import Role
from orchestrator.scaling_needs import Seen, paired
from tandem.core.clock import Clock
from tandem.core.errors import TandemError

log = logging.getLogger(__name__)

LOOK_S = 5.0

Look = Callable[[Role, int | None, str], Seen]
"""`Signals.look`."""


class Scaler:
    """The workloads of a release: one of each role, or that of pairs. Owned by the event loop."""

    def __init__(
        self, api: KubeApi, settings: KubernetesSettings, cluster: Cluster, look: Look, clock: Clock
    ) -> None:
        self._api, self._settings, self._cluster = api, settings, cluster
        self._look, self._clock = look, clock
        bounds = {Role.ENCODER: settings.encoders, Role.REASONER: settings.reasoners}
        self._deciders: dict[Role | None, Autoscaler] = (
            {None: Autoscaler(settings.reasoners, settings.goals)}
            if settings.pairs
            else {role: Autoscaler(each, settings.goals) for role, each in bounds.items()}
        )
        """By the role of a workload's pods; None: pairs."""
        self.told = {role: Told() for role in Role}
        self.counts: Counter[tuple[str, str]] = Counter()
        """Decisions by role and action; those about pairs count for both."""
        self.replicas: dict[Role, int] = {}
        """How many pods of each role there should be, as last read."""
        self._trouble: dict[str, str] = {}

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The services that there should be; empty while that is not known."""
        found: list[Wanted] = []
        for role in self._deciders:
            count = self.replicas.get(role or Role.REASONER, 0)
            found += names(self._settings.release, role, count)
        return tuple(found)

    async def look(self, pods: PodTable, *, is_current: bool) -> None:
        """Read the numbers, and change them where that is on; `is_current`: `pods` is the present."""
        for role, decider in self._deciders.items():
            await self._look_at(role, decider, pods, is_current=is_current)

    async def _look_at(
        self, role: Role | None, decider: Autoscaler, pods: PodTable, *, is_current: bool
    ) -> None:
        name = workload(self._settings.release, role)
        replicas, version = await self._read(name, _roles(role))
        if not self._settings.autoscale or not self._cluster.fence.leads:
            return
        # Again each time: one that attached anew takes streams, and would be removed with them.
        self._cordon(role, decider.draining, "to be removed")
        seen = self._see(role, replicas, pods, is_current=is_current)
        decision = decider.decide(seen, self._clock())
        for each in _roles(role):
            self._note(each, decision)
        self._log(name, decision)
        try:
            await self._do(role, name, decision, version)
        except TandemError as error:
            log.warning("scaling %s to %d: %s", name, decision.replicas, error)
            if decision.action is Action.DOWN:
                self._uncordon(role, decision.pod)  # it stays, so it may take streams

    async def _read(self, name: str, roles: tuple[Role, ...]) -> tuple[int | None, str]:
        replicas: int | None = None
        version = ""
        try:
            replicas, version = _replicas(await self._api.read_scale(name))
            self._trouble.pop(name, None)
        except TandemError as error:
            if self._trouble.get(name) != error.message:  # said once
                log.info("scaling: %s", error)
            self._trouble[name] = error.message
        if replicas is not None:
            self.replicas |= dict.fromkeys(roles, replicas)
        return replicas, version

    def _see(self, role: Role | None, replicas: int | None, pods: PodTable, *, is_current: bool) -> Seen:
        top = pods.top(role)
        # The pod with the highest number that there should be: not one that is on its way out already.
        is_top = top is not None and replicas is not None and top.number == replicas - 1
        pod = top.name if top is not None and is_top and not top.is_leaving else ""
        known = replicas if is_current else None
        services = services_of(pod, role) if pod else tuple(Wanted("", each) for each in _roles(role))
        seen = {each.role: self._look(each.role, known, each.name) for each in services}
        if role is not None:
            return seen[role]
        return paired(seen[Role.ENCODER], seen[Role.REASONER], pod)

    async def _do(self, role: Role | None, name: str, decision: Decision, version: str) -> None:
        match decision.action:
            case Action.DRAIN:
                self._cordon(role, decision.pod, f"to be removed: {decision.reason}")
            case Action.UNDO:
                self._uncordon(role, decision.pod)
            case Action.UP | Action.DOWN:
                assert decision.replicas >= 1, decision
                try:
                    await self._set(name, decision.replicas, version)
                except Conflict:
                    # Its status changes all the time; only another number is another's decision.
                    before, version = _replicas(await self._api.read_scale(name))
                    if before != self.replicas.get(_roles(role)[0]):
                        raise
                    await self._set(name, decision.replicas, version)
                self.replicas |= dict.fromkeys(_roles(role), decision.replicas)
            case Action.HOLD:
                pass

    async def _set(self, name: str, replicas: int, version: str) -> None:
        self._cluster.fence.check()
        await self._api.set_scale(name, replicas, version)

    def _cordon(self, role: Role | None, pod: str, reason: str) -> None:
        for service in services_of(pod, role) if pod else ():
            self._cluster.cordon(service.name, reason)

    def _uncordon(self, role: Role | None, pod: str) -> None:
        for service in services_of(pod, role):
            self._cluster.uncordon(service.name)

    def _note(self, role: Role, decision: Decision) -> None:
        told = self.told[role]
        self.counts[role.value, decision.action.value] += 1
        if decision.action is Action.HOLD:
            told.holds, told.holds_s = decision, self._clock()
        else:
            told.last, told.last_s = decision, self._clock()

    def _log(self, name: str, decision: Decision) -> None:
        """What changes; why nothing does is told by the doctor."""
        if decision.action is not Action.HOLD:
            pod = f" {decision.pod}" if decision.pod else ""
            words = (name, decision.action, pod, decision.replicas, decision.reason)
            log.warning("scaling: %s: %s%s, %d: %s", *words)


def _roles(role: Role | None) -> tuple[Role, ...]:
    return tuple(Role) if role is None else (role,)


async def scale_forever(scaler: Scaler, pods: PodTable, is_current: Callable[[], bool]) -> None:
    """A look every `LOOK_S`, until cancelled."""
    while True:
        try:
            await scaler.look(pods, is_current=is_current())
        except Exception:
            log.exception("a look at the number of pods failed; the next one comes")
        await asyncio.sleep(LOOK_S)


def _replicas(scale: dict[str, object]) -> tuple[int | None, str]:
    spec, meta = scale.get("spec"), scale.get("metadata")
    count = spec.get("replicas", 0) if isinstance(spec, dict) else None  # the API leaves out a 0
    version = meta.get("resourceVersion") if isinstance(meta, dict) else None
    is_known = isinstance(count, int) and count >= 0 and isinstance(version, str)
    return (count if is_known else None), version if isinstance(version, str) else ""
