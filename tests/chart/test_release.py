"""Helm installs, upgrades, rolls back and uninstalls the chart against an API server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
from aiohttp import ClientSession

from tests.chart.rendering import CHART, NAMESPACE, Object, read

server = pytest.importorskip("tests.kube.server", reason="the fake API server is not part of this tree")
SECRET = "video-secret"


class Helm:
    """Helm's actions on one release of one API server."""

    def __init__(self, kube: Any) -> None:
        self.kube = kube
        self._config = helm_python.Config(
            kube_apiserver=kube.url, namespace=NAMESPACE, storage_driver="memory"
        )

    async def install(self, values: Object, chart: Path = CHART) -> None:
        await asyncio.to_thread(self._config.install, chart, "video", values, create_namespace=True)

    async def upgrade(self, values: Object, **options: Any) -> None:
        await asyncio.to_thread(self._config.upgrade, CHART, "video", values, **options)

    async def rollback(self, version: int) -> None:
        await asyncio.to_thread(self._config.rollback, "video", version=version)

    async def uninstall(self) -> None:
        await asyncio.to_thread(self._config.uninstall, "video")

    def objects(self) -> dict[tuple[str, str], Object]:
        """All that is in the namespace, by kind and name."""
        return {
            (each["kind"], each["metadata"]["name"]): each
            for resource in self.kube.store.resources.values()
            if resource.namespaced
            for each in self.kube.store.list(resource, NAMESPACE)
        }

    def secret(self) -> bytes:
        """The services' shared secret as it is now."""
        return base64.b64decode(self.objects()["Secret", SECRET]["data"]["secret"])


@pytest.fixture
async def helm() -> AsyncIterator[Helm]:
    async with server.fake_kube() as kube:
        yield Helm(kube)


async def test_a_release_lives(helm: Helm) -> None:
    await helm.install({"insecure": True})
    first = helm.objects()
    secret = helm.secret()
    assert len(secret) == 64
    assert {name for kind, name in first if kind == "StatefulSet"} == {
        "video-orchestrator",
        "video-encoder",
        "video-reasoner",
    }
    assert first["StatefulSet", "video-encoder"]["spec"]["replicas"] == 1

    watched = {"scrape": "podMonitor"}, {"metrics": {"from": [{"podSelector": {}}]}}
    more = {"encoder": {"replicas": 3}, "metrics": watched[0], "networkPolicy": watched[1]}
    await helm.upgrade({"insecure": True, **more})
    second = helm.objects()
    assert helm.secret() == secret, "an upgrade must not make another secret"
    assert second["StatefulSet", "video-encoder"]["spec"]["replicas"] == 3
    assert ("PodMonitor", "video") in second
    reasoner = ("StatefulSet", "video-reasoner")
    assert first[reasoner]["spec"]["selector"] == second[reasoner]["spec"]["selector"]

    await helm.rollback(1)
    third = helm.objects()
    assert helm.secret() == secret
    assert third["StatefulSet", "video-encoder"]["spec"]["replicas"] == 1
    assert ("PodMonitor", "video") not in third

    await helm.uninstall()
    assert set(helm.objects()) == {("Secret", SECRET)}, "blocks on disk are of no use without it"
    await helm.install({"insecure": True})
    assert helm.secret() == secret


async def test_an_upgrade_leaves_a_scaler_its_number(helm: Helm) -> None:
    """Who scales sets `replicas`; Helm applies objects without it, and so leaves it alone."""
    values = read(CHART / "ci/orchestrator-scales-values.yaml")
    await helm.install(values)
    sets = helm.kube.store.resources["apps", "statefulsets"]
    helm.kube.store.edit(sets, NAMESPACE, "video-encoder", lambda item: item["spec"].update(replicas=5))
    await helm.upgrade({**values, "log": {"level": "debug"}})
    encoder = helm.objects()["StatefulSet", "video-encoder"]["spec"]
    assert encoder["replicas"] == 5
    assert "--log-level=debug" in encoder["template"]["spec"]["containers"][0]["args"]


async def test_a_scaler_that_is_turned_on_finds_the_pods_that_there_were(helm: Helm) -> None:
    """A number that is left out is 1 to Kubernetes: all pods but one would end with the upgrade."""

    def count() -> int:
        found: int = helm.objects()["StatefulSet", "video-encoder"]["spec"].get("replicas", 1)
        return found

    values = read(CHART / "ci/orchestrator-scales-values.yaml")
    await helm.install({"insecure": True, "encoder": {"replicas": 3}})
    for level in ("info", "debug"):  # the scaler may have nothing to change for a while
        await helm.upgrade({**values, "log": {"level": level}})
        assert count() == 3
    async with ClientSession() as session:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/video-encoder/scale"
        body = {"spec": {"replicas": 5}}
        patch = {"Content-Type": "application/merge-patch+json"}
        address = f"{helm.kube.url}{path}?fieldManager=tandem"
        async with session.patch(address, json=body, headers=patch) as reply:
            assert reply.status == 200
    await helm.upgrade({**values, "log": {"level": "info"}})
    assert count() == 5
    encoder = helm.objects()["StatefulSet", "video-encoder"]["spec"]
    assert "--log-level=info" in encoder["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", ["secure", "gpu", "keda"])
async def test_an_api_server_takes_every_object(helm: Helm, name: str) -> None:
    await helm.install(read(CHART / f"ci/{name}-values.yaml"))
    assert ("StatefulSet", "video-orchestrator") in helm.objects()


async def test_an_older_kubernetes_is_refused() -> None:
    async with server.fake_kube(version="1.26") as kube:
        with pytest.raises(helm_python.HelmError, match=r"1\.27"):
            await Helm(kube).install({"insecure": True})
