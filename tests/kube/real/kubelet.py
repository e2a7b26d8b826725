"""A node whose pods are processes of this machine: what a scheduler binds to it runs, by its own command."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from orchestrator.backends.kubernetes_api import MERGE_PATCH, KubeApi
from tandem.core.errors import AlreadyExists, TandemError
from tests.kube.real.control_plane import API_SERVICE, NODE_ADDRESS, PODS, PORT
from tests.kube.real.running_pod import RunningPod
from tests.kube.store import now_text

LOOK_S = 0.2
HEARTBEAT_S = 5.0
CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "100", "ephemeral-storage": "500Gi"}
VARIABLES = {"KUBERNETES_SERVICE_HOST": API_SERVICE, "KUBERNETES_SERVICE_PORT": str(PORT)}


class Kubelet:
    """One node, `node-NUMBER`."""

    def __init__(self, api: KubeApi, number: int, folder: Path, hosts: Path) -> None:
        self.name = f"node-{number}"
        self.pods: dict[str, RunningPod] = {}
        """By uid."""
        self._api, self._number, self._folder, self._hosts = api, number, folder, hosts
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._addresses = 0

    async def run(self) -> None:
        """Until cancelled; then every pod is killed."""
        beat = asyncio.create_task(self._beat())
        try:
            while True:
                with contextlib.suppress(TandemError):  # the server is busy; a kubelet tries again too
                    await self._look()
                await asyncio.sleep(LOOK_S)
                if beat.done():
                    beat.result()
        finally:
            beat.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(beat, *self._tasks.values(), return_exceptions=True)

    def pod(self, name: str) -> RunningPod | None:
        """The newest of a name that is here."""
        found = [each for each in self.pods.values() if each.name == name]
        return found[-1] if found else None

    async def _look(self) -> None:
        query = {"fieldSelector": f"spec.nodeName={self.name}"}
        items = (await self._api.call("GET", "/api/v1/pods", query))["items"]
        for item in items:
            uid = item["metadata"]["uid"]
            if uid not in self._tasks and item.get("status", {}).get("phase") in {None, "Pending"}:
                self._begin(uid, item)
            if "deletionTimestamp" in item["metadata"] and uid in self.pods:
                self.pods[uid].leave()
        there = {item["metadata"]["uid"] for item in items}
        for uid, task in self._tasks.items():
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
            if uid not in there and uid in self.pods:
                self.pods[uid].leave()

    def _begin(self, uid: str, item: dict[str, Any]) -> None:
        self._addresses += 1
        address = PODS.format(node=self._number, number=self._addresses)
        folder = self._folder / f"{item['metadata']['name']}-{uid[:8]}"
        pod = RunningPod(self._api, item, address, folder, self._hosts, VARIABLES)
        self.pods[uid] = pod
        self._tasks[uid] = asyncio.create_task(pod.run())

    async def _beat(self) -> None:
        body = {"metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}}}
        with contextlib.suppress(AlreadyExists):
            await self._api.call("POST", "/api/v1/nodes", body=body)
        while True:
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it runs",
                     "lastHeartbeatTime": now_text(), "lastTransitionTime": now_text()}  # fmt: skip
            status = {
                "capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready],
                "addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}],
            }  # fmt: skip
            with contextlib.suppress(TandemError):
                await self._api.call(
                    "PATCH",
                    f"/api/v1/nodes/{self.name}/status",
                    body={"status": status},
                    content_type=MERGE_PATCH,
                )
            await asyncio.sleep(HEARTBEAT_S)
