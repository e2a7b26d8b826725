"""What becomes of a service when its pod is deleted, also when the news of it comes late."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.autoscaling import Bounds
from orchestrator.backends.kubernetes_backend import KubernetesBackend
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.cluster import Cluster
from orchestrator.membership import Identity, Role, Standing
from orchestrator.scaling_needs import Seen
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.kube.release import NAMESPACE, RELEASE, Release, release, until
from tests.kube.servers import TOKEN, write_kubeconfig

POD = f"{RELEASE}-encoder-0"


class Orchestra:
    """A backend at the fake, and the services that are attached to its cluster."""

    def __init__(self, found: Release, folder: Path) -> None:
        self.found = found
        self.cluster = Cluster(b"a secret that is long enough", 3.0, 0.0, time.monotonic)
        settings = KubernetesSettings(
            release=RELEASE, namespace=NAMESPACE, pod="o-0", encoders=Bounds(),
            kubeconfig=write_kubeconfig(folder / "config", found.kube.url, TOKEN),
        )  # fmt: skip
        self.backend = KubernetesBackend(
            settings=settings, boot="b", cluster=self.cluster, say=lambda _: None, clock=time.monotonic,
            look=lambda role, replicas, _: Seen(role=role, replicas=replicas, ready=1),
        )  # fmt: skip

    def attach(self, boot: str) -> None:
        who = Identity(name=POD, role=Role.ENCODER, address="127.0.0.1:9", boot_id=boot, fingerprint="f")
        self.cluster.attach(who, types_pb2.BuildInfo(), types_pb2.ModelInfo())

    @property
    def standing(self) -> Standing:
        return next(m.standing for m in self.cluster.members if m.identity.name == POD)

    @property
    def known(self) -> str:
        """The id of the pod as the backend knows it."""
        return next((pod.uid for pod in self.backend._pods if pod.name == POD and not pod.is_leaving), "")

    def there(self) -> str:
        """The same as the API has it."""
        found = (item["metadata"] for item in self.found.kube.store.list(self.found.pods, NAMESPACE))
        return next((meta["uid"] for meta in found if meta["name"] == POD), "")

    def delete(self, **options: int) -> None:
        self.found.kube.store.delete(self.found.pods, NAMESPACE, POD, options)


@asynccontextmanager
async def orchestra(folder: Path, *, first_watch_breaks: bool = False) -> AsyncIterator[Orchestra]:
    async with release(folder) as found:
        found.install()
        if first_watch_breaks:
            found.kube.faults.add(path="watch=", drop_watch_after=0, times=1)
        await until(lambda: len(found.names()) == 2)
        it = Orchestra(found, folder)
        await it.backend.start("127.0.0.1:7420")
        try:
            await until(lambda: bool(it.known))
            yield it
        finally:
            await it.backend.stop()
            await it.cluster.close()


async def test_a_deleted_pod_loses_its_streams_before_it_is_told_to_end(tmp_path: Path) -> None:
    async with orchestra(tmp_path) as it:
        it.attach("first")
        it.delete()
        await until(lambda: it.standing is Standing.DRAINING)
        it.delete(gracePeriodSeconds=0)
        before = it.known
        await until(lambda: it.known not in {"", before})
        it.attach("second")
        assert it.standing is Standing.READY


async def test_late_news_of_a_deletion_does_not_hold_the_next_pod(tmp_path: Path) -> None:
    """The API was away while a pod was replaced, and the next one attached before that was heard of."""
    async with orchestra(tmp_path, first_watch_breaks=True) as it:
        it.attach("first")
        before = it.there()
        fault = it.found.kube.faults.add(path="/pods", status=500, times=-1)
        it.delete()
        it.delete(gracePeriodSeconds=0)
        await until(lambda: it.there() not in {"", before})
        assert it.known == before, "nothing was heard of it"
        it.attach("second")
        assert it.standing is Standing.READY
        fault.times = 0
        await until(lambda: it.known == it.there())
        assert it.standing is Standing.READY
