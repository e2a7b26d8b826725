"""Shell: has the number of pods decided for each role, every few seconds, and does what was decided.

Decides in `orchestrator/autoscaling.py`. A number is changed only as the one that was read for the decision:
of two who scale, the slower is told of the conflict and decides anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from orchestrator.autoscaling import Action, Autoscaler, Decision, Seen, Told
from orchestrator.backends.kubernetes_api import KubeApi
from orchestrator.backends.kubernetes_pods import PodTable, workload
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.cluster import Cluster
from orchestrator.membership import Role
from tandem.core.clock import Clock
from tandem.core.errors import TandemError

log = logging.getLogger(__name__)

LOOK_S = 5.0

Look = Callable[[Role, int | None, str], Seen]
"""`Signals.look`."""


class Scaler:
    """Both roles of a release. Owned by the event loop."""

    def __init__(
        self, api: KubeApi, settings: KubernetesSettings, cluster: Cluster, look: Look, clock: Clock
    ) -> None:
        self._api, self._settings, self._cluster = api, settings, cluster
        self._look, self._clock = look, clock
        bounds = {Role.ENCODER: settings.encoders, Role.REASONER: settings.reasoners}
        self._deciders = {role: Autoscaler(each, settings.goals) for role, each in bounds.items()}
        self.told = {role: Told() for role in Role}
        self.counts: Counter[tuple[str, str]] = Counter()
        """Decisions by role and action."""
        self.replicas: dict[Role, int] = {}
        """How many pods there should be, as last read."""
        self._trouble: dict[Role, str] = {}

    async def look(self, pods: PodTable, *, is_current: bool) -> None:
        """Read both numbers, and change them where that is on; `is_current`: `pods` is the present."""
        for role in Role:
            await self._look_at(role, pods, is_current=is_current)

    async def _look_at(self, role: Role, pods: PodTable, *, is_current: bool) -> None:
        name = workload(self._settings.release, role)
        replicas: int | None = None
        version = ""
        try:
            scale = await self._api.read_scale(name)
            replicas, version = _replicas(scale)
            self._trouble.pop(role, None)
        except TandemError as error:
            if self._trouble.get(role) != error.message:  # said once: a release of pairs has none of these
                log.info("scaling: %s", error)
            self._trouble[role] = error.message
        if replicas is not None:
            self.replicas[role] = replicas
        if not self._settings.autoscale or not self._cluster.fence.leads:
            return
        top = pods.top(role)
        # The pod with the highest number that there should be: not one that is on its way out already.
        is_top = (
            top is not None and replicas is not None and top.number == replicas - 1 and not top.is_leaving
        )
        seen = self._look(role, replicas if is_current else None, top.name if top and is_top else "")
        decision = self._deciders[role].decide(seen, self._clock())
        self._note(role, decision)
        try:
            await self._do(role, name, decision, version)
        except TandemError as error:
            log.warning("scaling %s to %d: %s", name, decision.replicas, error)

    async def _do(self, role: Role, name: str, decision: Decision, version: str) -> None:
        match decision.action:
            case Action.DRAIN:
                self._cluster.cordon(decision.pod, f"to be removed: {decision.reason}")
            case Action.UNDO:
                self._cluster.uncordon(decision.pod)
            case Action.UP | Action.DOWN:
                assert decision.replicas >= 1, decision
                self._cluster.fence.check()
                await self._api.set_scale(name, decision.replicas, version)
                self.replicas[role] = decision.replicas
            case Action.HOLD:
                pass

    def _note(self, role: Role, decision: Decision) -> None:
        told = self.told[role]
        self.counts[role.value, decision.action.value] += 1
        if decision.action is Action.HOLD:
            if told.holds is None or told.holds.reason != decision.reason:
                log.debug("scaling: %ss stay %d: %s", role, decision.replicas, decision.reason)
            told.holds, told.holds_s = decision, self._clock()
            return
        told.last, told.last_s = decision, self._clock()
        pod = f" {decision.pod}" if decision.pod else ""
        log.warning(
            "scaling: %ss: %s%s, %d: %s", role, decision.action, pod, decision.replicas, decision.reason
        )


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
