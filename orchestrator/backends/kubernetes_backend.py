"""Shell: services as pods of a Helm release. Nothing is started here: the chart owns the pods.

The backend follows them by a watch, so that it is known who should be there and why one is not; elects who
leads of several orchestrators; and, where that is asked for, changes the number of pods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from orchestrator.backends.base import Wanted
from orchestrator.backends.kubernetes_api import KubeApi
from orchestrator.backends.kubernetes_leader import Leader
from orchestrator.backends.kubernetes_pods import Pod, selector
from orchestrator.backends.kubernetes_scaling import Look, Scaler, scale_forever
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.backends.kubernetes_watch import PodWatch
from orchestrator.cluster import Cluster
from orchestrator.waiting import stop
from tandem.core.clock import Clock

log = logging.getLogger(__name__)

Say = Callable[[str], None]


class KubernetesBackend:
    """All pods of one release. Owned by the event loop."""

    def __init__(
        self,
        *,
        settings: KubernetesSettings,
        boot: str,
        cluster: Cluster,
        look: Look,
        say: Say,
        clock: Clock,
    ) -> None:
        """`boot`: id of this start of this process. `look`: what streams say of a role."""
        self._settings = settings
        self._identity = f"{settings.pod}/{boot}"
        self._cluster = cluster
        self._look = look
        self._say = say
        self._clock = clock
        self._api: KubeApi | None = None
        self._watch: PodWatch | None = None
        self._leader: Leader | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._deleted: dict[str, str] = {}
        """Ids of pods that were deleted, by the services that were cordoned for it."""
        self.scaler: Scaler | None = None
        self.won = asyncio.Event()
        """Set when this orchestrator leads."""
        self.lost = asyncio.Event()
        """Set when it leads no more: this process is of no more use."""

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The services that there should be; empty while that is not known."""
        return self.scaler.wanted if self.scaler is not None else ()

    @property
    def endings(self) -> Mapping[str, str]:
        """Why pods do not run, or how their last container ended."""
        found = ((pod, _words(pod)) for pod in self._pods)
        return {each.name: words for pod, words in found if words for each in pod.services}

    @property
    def _pods(self) -> tuple[Pod, ...]:
        return self._watch.table.pods if self._watch is not None else ()

    async def start(self, orchestrator: str) -> None:
        """Follow the pods, and stand for the lead.

        Raises:
            Unavailable: the extra `kubernetes` is not installed.
            InvalidInput: there is no usable configuration of the API.
        """
        settings = self._settings
        api = self._api = await KubeApi.connect(settings.namespace, settings.kubeconfig)
        self._watch = watch = PodWatch(api, selector(settings.release), self._changed)
        self.scaler = scaler = Scaler(api, settings, self._cluster, self._look, self._clock)
        self._leader = Leader(
            api,
            self._cluster.fence,
            lease=settings.lease,
            identity=self._identity,
            address=settings.advertise or orchestrator,
            lease_s=settings.lease_s,
            alone=settings.alone,
        )
        self._tasks = [
            asyncio.create_task(self._stand(self._leader), name="lead"),
            asyncio.create_task(watch.run(), name="pods"),
            asyncio.create_task(scale_forever(scaler, watch.table, lambda: watch.is_current), name="scale"),
        ]
        self._say(f"pods of release {settings.release} in {settings.namespace}; standing for the lead …")

    def ready(self, name: str) -> None:
        """A service attached: the API says so by itself, where its probe does."""

    def replace(self, name: str, reason: str) -> None:
        """Its pod's liveness probe has a frozen service started again; nothing is deleted from here."""
        log.info("%s is lost (%s); its probes decide what becomes of its pod", name, reason)

    async def stop(self) -> None:
        """Let another lead; the pods stay."""
        await stop(*self._tasks)
        if self._leader is not None:
            await self._leader.resign()
        if self._api is not None:
            await self._api.close()

    async def _stand(self, leader: Leader) -> None:
        def won(term: int) -> None:
            self._cluster.begin()
            self._say(f"this orchestrator leads (term {term})")
            self.won.set()

        try:
            reason = await leader.run(won)
        except Exception:
            log.exception("the election failed")
            reason = "internal error"
        self._cluster.fence.lose(self._cluster.fence.leader)
        self._say(f"WARNING: {reason}")
        self.lost.set()

    def _changed(self, pod: Pod | None) -> None:
        """What the watch says of a pod: one that was deleted loses its streams before it is told to end."""
        for each in (pod,) if pod is not None else self._pods:
            for service in each.services:
                self._tell(service.name, each)
        self._cluster.changed.notify()

    def _tell(self, service: str, pod: Pod) -> None:
        if pod.is_leaving:
            self._deleted[service] = pod.uid
            self._cluster.cordon(service, "its pod was deleted")
        elif self._deleted.get(service, pod.uid) != pod.uid:
            # News of a deletion may come late, when the next pod of that name has attached already.
            del self._deleted[service]
            self._cluster.uncordon(service)


def _words(pod: Pod) -> str:
    if pod.is_leaving:
        return "its pod is being deleted"
    return "; ".join(part for part in (pod.trouble, pod.ending) if part)
