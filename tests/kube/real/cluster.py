"""A cluster whose nodes are this machine: a real control plane, and Helm's hands on it."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import helm_python

from orchestrator.backends.kubernetes_api import KubeApi
from tests.chart.rendering import CHART
from tests.kube.real.control_plane import ControlPlane
from tests.kube.real.dialect import copy_chart
from tests.kube.real.kubelet import Kubelet
from tests.kube.real.running_pod import RunningPod
from tests.kube.real.services import Services
from tests.kube.servers import write_kubeconfig

RELEASE, NAMESPACE = "video", "cameras"
Item = dict[str, Any]


class Cluster:
    """Made by `cluster`."""

    def __init__(self, plane: ControlPlane, api: KubeApi, folder: Path, nodes: int) -> None:
        self.plane, self.api, self.folder = plane, api, folder
        hosts = folder / "hosts"
        self.services = Services(api, hosts)
        self.nodes = [
            Kubelet(api, number, folder / f"node-{number}", hosts) for number in range(1, nodes + 1)
        ]
        self.chart = copy_chart(CHART, folder)
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig-helm", plane.url, plane.token)
        self._helm = helm_python.Config(kubeconfig_path=self.kubeconfig, namespace=NAMESPACE)

    async def helm(self, action: str, *arguments: Any, **options: Any) -> Any:
        """One of Helm's actions, in a thread."""
        return await asyncio.to_thread(getattr(self._helm, action), *arguments, **options)

    async def get(self, path: str) -> Item:
        """An object of the namespace, such as `/apis/apps/v1` `statefulsets/NAME`."""
        root, _, rest = path.partition(" ")
        return await self.api.call("GET", f"{root}/namespaces/{NAMESPACE}/{rest}")

    async def pods(self) -> dict[str, Item]:
        """By name."""
        return {each["metadata"]["name"]: each for each in (await self.get("/api/v1 pods"))["items"]}

    async def door(self, release: str = RELEASE) -> str:
        """The address of the front door's Service, which has names inside the cluster alone."""
        service = await self.get(f"/api/v1 services/{release}-orchestrator")
        return f"{service['spec']['clusterIP']}:7420"

    async def put_secret(self, name: str, **files: bytes) -> None:
        """As `kubectl create secret generic` does; `tls_crt` stands for `tls.crt`."""
        data = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in files.items()}
        body = {"metadata": {"name": name}, "data": data}
        await self.api.call("POST", f"/api/v1/namespaces/{NAMESPACE}/secrets", body=body)

    async def leader(self) -> str:
        """Who holds the Lease, as POD/START."""
        lease = await self.get(f"/apis/coordination.k8s.io/v1 leases/{RELEASE}-orchestrator")
        return str(lease["spec"]["holderIdentity"])

    async def delete_pod(self, name: str, **options: Any) -> None:
        """As `kubectl delete pod` does."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"
        await self.api.call("DELETE", path, body=options or None)

    def pod(self, name: str) -> RunningPod:
        """What runs of it here."""
        (found,) = (pod for node in self.nodes if (pod := node.pod(name)))
        return found

    async def ready(self, *names: str, within_s: float = 120) -> None:
        """Until these pods are ready, and none else is there. Raises AssertionError with what they say."""

        def as_it_should(pods: dict[str, Item]) -> bool:
            return set(pods) == set(names) and all(is_ready(each) for each in pods.values())

        await self.until(as_it_should, within_s)

    async def until(self, condition: Callable[[dict[str, Item]], bool], within_s: float = 60) -> None:
        """Until something is so of the pods."""
        try:
            async with asyncio.timeout(within_s):
                while not condition(pods := await self.pods()):
                    self.plane.check()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(self.tell(pods)) from None

    def tell(self, pods: dict[str, Item]) -> str:
        """What is there, and the ends of the logs."""
        lines = []
        for name, item in pods.items():
            status = item.get("status", {})
            lines.append(
                f"== {name}: {status.get('phase')} ready={is_ready(item)} on {item['spec'].get('nodeName')}"
            )
            lines += [f"   {each}" for each in status.get("conditions", []) if each["status"] != "True"]
            for node in self.nodes:
                if running := node.pod(name):
                    for each in item["spec"]["containers"]:
                        lines.append(running.log(each["name"])[-3000:])
        return "\n".join(lines)


def is_ready(pod: Item) -> bool:
    """Whether a pod says that it takes work, and is not on its way out."""
    conditions = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


@asynccontextmanager
async def cluster(folder: Path, nodes: int = 2) -> AsyncIterator[Cluster]:
    """Up when entered, gone when left."""
    plane = ControlPlane(Path(os.environ["TANDEM_KUBE_BIN"]), folder / "plane")
    tasks: list[asyncio.Task[None]] = []
    api: KubeApi | None = None
    try:
        await plane.start()
        config = write_kubeconfig(folder / "kubeconfig", plane.url, plane.token)
        api = await KubeApi.connect(NAMESPACE, config)
        found = Cluster(plane, api, folder, nodes)
        runs = [found.services.run(), *(node.run() for node in found.nodes)]
        tasks = [asyncio.create_task(each) for each in runs]
        await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": NAMESPACE}})
        yield found
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if api:
            await api.close()
        await plane.stop()
