"""A release in the fake: its StatefulSets, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.backends.kubernetes_api import KubeApi
from orchestrator.backends.kubernetes_lease import lease_of
from orchestrator.backends.kubernetes_pods import COMPONENT, INSTANCE
from tests.kube.controllers import StatefulSets
from tests.kube.server import FakeKube, fake_kube
from tests.kube.servers import TOKEN, connected

RELEASE = "demo"
NAMESPACE = "default"


def workload(role: str, replicas: int = 1) -> dict[str, Any]:
    labels = {INSTANCE: RELEASE, COMPONENT: role}
    spec = {"containers": [{"name": "main", "image": "none"}]}
    return {
        "metadata": {"name": f"{RELEASE}-{role}"},
        "spec": {
            "replicas": replicas,
            "serviceName": f"{RELEASE}-{role}",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


class Release:
    """The fake with a release in it, and its controllers running."""

    def __init__(self, kube: FakeKube, api: KubeApi) -> None:
        self.kube, self.api = kube, api
        self.controllers = StatefulSets(kube)
        self.sets = kube.store.resources["apps", "statefulsets"]
        self.pods = kube.store.resources["", "pods"]
        self.leases = kube.store.resources["coordination.k8s.io", "leases"]

    def install(self, *, encoders: int = 1, reasoners: int = 1) -> None:
        for role, replicas in (("encoder", encoders), ("reasoner", reasoners)):
            self.kube.store.create(self.sets, NAMESPACE, workload(role, replicas))

    def free_lease(self) -> None:
        """One that a former leader gave up: whoever comes first leads at once."""
        body = lease_of(f"{RELEASE}-orchestrator", "", 1, "", 1.0, 1_700_000_000.0, None)
        self.kube.store.create(self.leases, NAMESPACE, body)

    def replicas(self, role: str) -> int:
        count: int = self.kube.store.get(self.sets, NAMESPACE, f"{RELEASE}-{role}")["spec"]["replicas"]
        return count

    def set_replicas(self, role: str, count: int) -> None:
        name = f"{RELEASE}-{role}"
        self.kube.store.edit(self.sets, NAMESPACE, name, lambda item: item["spec"].update(replicas=count))

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.kube.store.list(self.pods, NAMESPACE)]


@asynccontextmanager
async def release(folder: Path, *, open_to_all: bool = False) -> AsyncIterator[Release]:
    """`open_to_all`: without tokens, which clients in Go do not send where there is no TLS."""
    async with (
        fake_kube(tokens={} if open_to_all else {TOKEN: "tests"}) as kube,
        connected(kube.url, TOKEN, folder, NAMESPACE) as api,
    ):
        found = Release(kube, api)
        task = asyncio.create_task(found.controllers.run())
        try:
            yield found
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a test looks at what has no event
            await asyncio.sleep(0.01)
