"""What a controller manager, a scheduler and a kubelet would do with StatefulSets: pods that come and go."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.kube.problems import ApiProblem
from tests.kube.server import FakeKube
from tests.kube.store import Item, now_text


class StatefulSets:
    """Keeps as many pods as each StatefulSet wants; the highest number goes first."""

    def __init__(self, kube: FakeKube, *, step_s: float = 0.02) -> None:
        self._store = kube.store
        self._sets = self._store.resources["apps", "statefulsets"]
        self._pods = self._store.resources["", "pods"]
        self._step_s = step_s
        self.held: set[str] = set()
        """Pods that get no node: Pending for as long as they are named here."""
        self.removed: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for item in self._store.list(self._sets, ""):
                self._reconcile(item)
            await asyncio.sleep(self._step_s)

    def _reconcile(self, item: Item) -> None:
        name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
        wanted = {f"{name}-{n}" for n in range(item["spec"].get("replicas", 1))}
        there = {
            pod["metadata"]["name"]: pod
            for pod in self._store.list(self._pods, namespace)
            if pod["metadata"].get("labels", {}).items() >= item["spec"]["selector"]["matchLabels"].items()
        }
        for pod in sorted(set(there) - wanted, key=lambda each: int(each.rpartition("-")[2]), reverse=True)[
            :1
        ]:
            self._store.delete(self._pods, namespace, pod, {"gracePeriodSeconds": 0})
            self.removed.append(pod)
        for pod in sorted(wanted - set(there)):
            template = item["spec"]["template"]
            meta = {"name": pod, "labels": dict(template["metadata"]["labels"])}
            self._store.create(self._pods, namespace, {"metadata": meta, "spec": template["spec"]})
        for pod in wanted - self.held:
            self.start(namespace, pod)
        for pod in wanted & self.held & set(there):
            self._hold(namespace, pod)
        if item.get("status", {}).get("replicas") != len(wanted):
            self._store.edit(
                self._sets, namespace, name, lambda it: it.update(status={"replicas": len(wanted)})
            )

    def _hold(self, namespace: str, pod: str) -> None:
        """As a scheduler that finds no node."""
        reason = {
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
        }
        status = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", **reason}]}
        if self._store.get(self._pods, namespace, pod)["status"] != status:
            self._store.edit(self._pods, namespace, pod, lambda item: item.update(status=status))

    def start(self, namespace: str, pod: str, address: str = "127.0.0.1") -> None:
        """As scheduler and kubelet: it runs, and is ready."""

        def change(item: Item) -> None:
            item["spec"]["nodeName"] = "node-0"
            item["status"] = {
                "phase": "Running",
                "podIP": address,
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [container("main", ready=True)],
            }

        try:
            if self._store.get(self._pods, namespace, pod)["status"]["phase"] != "Running":
                self._store.edit(self._pods, namespace, pod, change)
        except ApiProblem:
            return


def container(name: str, *, ready: bool, restarts: int = 0, **state: Any) -> Item:
    return {
        "name": name,
        "ready": ready,
        "restartCount": restarts,
        "image": "none",
        "imageID": "",
        "state": state or {"running": {"startedAt": now_text()}},
    }
