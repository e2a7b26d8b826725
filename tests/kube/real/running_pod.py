"""One pod of a node: its address, volumes and containers, from its arrival until nothing of it is left."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
from pathlib import Path
from typing import Any

from orchestrator.backends.kubernetes_api import MERGE_PATCH, KubeApi
from tandem.core.errors import NotFound, TandemError
from tests.kube.real import probes
from tests.kube.real.commands import command, environment, quantity
from tests.kube.real.containers import Container, Spec
from tests.kube.real.images import image
from tests.kube.real.volumes import Volumes
from tests.kube.store import now_text

Item = dict[str, Any]
BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Before a container that ended starts again; a kubelet waits from ten seconds to five minutes."""


class RunningPod:
    """Run by `run`; `leave` ends it, as a deletion does."""

    def __init__(
        self, api: KubeApi, pod: Item, address: str, folder: Path, hosts: Path, variables: dict[str, str]
    ) -> None:
        """`variables`: what every container of the cluster gets."""
        self._api, self._pod, self.address, self._folder = api, pod, address, folder
        self._hosts, self._variables = hosts, variables
        self._volumes = Volumes(api, pod, folder / "volumes", folder.parent / "claims")
        self._status: dict[str, Item] = {}
        self._running: dict[str, Container] = {}
        self._phase = "Pending"
        self._initialized = False
        self._leaving = asyncio.Event()
        self._changed = asyncio.Event()
        self._started = now_text()

    @property
    def name(self) -> str:
        return str(self._pod["metadata"]["name"])

    def log(self, container: str) -> str:
        """All that it said."""
        path = self._folder / container / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def first(self, container: str) -> int | None:
        """Process 1 of a container, by its number outside."""
        return self._running[container].first if container in self._running else None

    def leave(self) -> None:
        """SIGTERM to its containers, SIGKILL after the pod's grace period."""
        self._leaving.set()

    async def run(self) -> None:
        """Until the pod is gone from the API server, or its containers have ended for good."""
        # As a network plugin does: libraries look for the device that has the pod's address.
        await _ip("add", self.address)
        told = asyncio.create_task(self._tell())
        work = asyncio.create_task(self._work())
        left = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not self._leaving.is_set():
                await work
                self._changed.set()
                await self._leaving.wait()
            grace = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
            await asyncio.gather(*(each.stop(grace) for each in list(self._running.values())))
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        finally:
            for container in self._running.values():
                container.kill()
            for task in (told, work, left):
                task.cancel()
            await asyncio.gather(told, work, left, return_exceptions=True)
            self._volumes.unmount()
            await _ip("delete", self.address)
        await self._gone()

    async def _work(self) -> None:
        spec = self._pod["spec"]
        while True:
            try:
                places = await self._volumes.make()
                break
            except NotFound as error:
                self._waiting(f"ContainerCreating: {error}")
                await asyncio.sleep(0.5)
        for container in spec.get("initContainers", []):
            if not await self._one(container, places, once=True):
                self._phase = "Failed"
                self._changed.set()
                return
        self._initialized = True
        self._phase = "Running"
        once = spec.get("restartPolicy", "Always") == "Never"
        results = await asyncio.gather(*(self._one(each, places, once=once) for each in spec["containers"]))
        self._phase = "Succeeded" if all(results) else "Failed"
        self._changed.set()

    async def _one(self, container: Item, places: dict[str, Path], *, once: bool) -> bool:
        """Start it, and again when it ends. With `once`: whether it ended well."""
        name, restarts = container["name"], 0
        while True:
            spec = await self._spec(container, places)
            limit = quantity(container.get("resources", {}).get("limits", {}).get("memory", "0"))
            running = await Container.start(spec, self._folder / name, limit)
            self._running[name] = running
            self._tell_of(name, restarts, running={"startedAt": now_text()})
            watching = asyncio.create_task(self._probe(container, running))
            status = await running.wait()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            del self._running[name]
            ended = {"exitCode": status % 256, "reason": "Completed" if status == 0 else "Error",
                     "startedAt": now_text(), "finishedAt": now_text()}  # fmt: skip
            self._tell_of(name, restarts, terminated=ended)
            if once or self._leaving.is_set():
                return status == 0
            await asyncio.sleep(BACK_OFF_S[min(restarts, len(BACK_OFF_S) - 1)])
            restarts += 1

    async def _probe(self, container: Item, running: Container) -> None:
        def ready(so: bool) -> None:
            self._status[container["name"]] |= {"ready": so, "started": True}
            self._changed.set()

        def dead(why: str) -> None:
            self._status[container["name"]]["why"] = why
            grace = self._pod["spec"].get("terminationGracePeriodSeconds", 30)
            ending.append(asyncio.create_task(running.stop(grace)))

        ending: list[asyncio.Task[int]] = []
        await probes.watch(container, self.address, ready, dead)

    async def _spec(self, container: Item, places: dict[str, Path]) -> Spec:
        pod, security = self._pod["spec"].get("securityContext", {}), container.get("securityContext", {})
        needed = {
            each["valueFrom"]["secretKeyRef"]["name"]
            for each in container.get("env", [])
            if "secretKeyRef" in each.get("valueFrom", {})
        }
        secrets = {name: (await self._volumes.object("secrets", name))["data"] for name in needed}
        own = environment(
            container,
            self._pod,
            self.address,
            lambda name, key: base64.b64decode(secrets[name][key]).decode(),
        )
        mounts = [
            (str(self._hosts), "/etc/hosts", True),
            (str(self._hosts.with_name("resolv.conf")), "/etc/resolv.conf", True),
        ]
        mounts += [
            (str(places[each["name"]]), each["mountPath"], each.get("readOnly", False))
            for each in container.get("volumeMounts", [])
        ]
        made_of = image(container["image"])
        group = security.get("runAsGroup", pod.get("runAsGroup", 0))
        return Spec(
            argv=command(container, own),
            env={**made_of.env, "HOSTNAME": self.name, **self._variables, **own},
            mounts=mounts,
            uid=security.get("runAsUser", pod.get("runAsUser", 0)),
            gid=group,
            groups=[pod["fsGroup"]] if "fsGroup" in pod else [],
            read_only_root=security.get("readOnlyRootFilesystem", False),
            root=made_of.root,
            open=made_of.open,
        )

    def _waiting(self, why: str) -> None:
        for each in self._pod["spec"]["containers"]:
            self._tell_of(each["name"], 0, waiting={"reason": "ContainerCreating", "message": why[:200]})

    def _tell_of(self, name: str, restarts: int, **state: Item) -> None:
        last = self._status.get(name, {}).get("state", {})
        self._status[name] = {
            "name": name, "ready": False, "started": False, "restartCount": restarts, "image": "this-machine",
            "imageID": "", "state": state, "lastState": last if "terminated" in last else {},
        }  # fmt: skip
        self._changed.set()

    def _report(self) -> Item:
        spec = self._pod["spec"]
        main = [self._status[each["name"]] for each in spec["containers"] if each["name"] in self._status]
        ready = self._phase == "Running" and bool(main) and all(each["ready"] for each in main)
        conditions = {
            "Initialized": self._initialized,
            "ContainersReady": ready,
            "Ready": ready,
            "PodScheduled": True,
        }
        first = [
            self._status[each["name"]]
            for each in spec.get("initContainers", [])
            if each["name"] in self._status
        ]
        clean = [{key: value for key, value in each.items() if key != "why"} for each in main]
        return {
            "phase": self._phase,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": "10.77.0.1",
            "startTime": self._started,
            "containerStatuses": clean,
            "initContainerStatuses": first,
            "conditions": [
                {"type": kind, "status": str(so), "lastTransitionTime": now_text()}
                for kind, so in conditions.items()
            ],
        }

    async def _tell(self) -> None:
        path = f"{self._path()}/status"
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._api.call("PATCH", path, body={"status": self._report()}, content_type=MERGE_PATCH)
            except NotFound:
                return
            except TandemError:
                self._changed.set()
                await asyncio.sleep(0.5)

    async def _gone(self) -> None:
        meta = self._pod["metadata"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        with contextlib.suppress(TandemError):  # gone already, or another pod of its name
            await self._api.call("DELETE", self._path(), body=body)
        shutil.rmtree(self._folder / "volumes", ignore_errors=True)

    def _path(self) -> str:
        meta = self._pod["metadata"]
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


async def _ip(action: str, address: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", "address", action, f"{address}/32", "dev", "lo")
    await process.wait()
