"""Real Helm installs, upgrades, rolls back and uninstalls a small chart at the fake API server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.kube.release import NAMESPACE, Release, release, until
from tests.kube.servers import TOKEN, write_kubeconfig

helm = pytest.importorskip("helm_python")

SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .Release.Name }}-encoder
spec:
  {{- if not .Values.autoscale }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  serviceName: {{ .Release.Name }}-encoder
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers: [{name: main, image: "none:{{ .Values.tag }}"}]
"""
SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-settings
data:
  tag: {{ .Values.tag | quote }}
  {{- if .Values.more }}
  more: "yes"
  {{- end }}
"""


def write_chart(folder: Path) -> str:
    chart = folder / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: small\nversion: 0.1.0\n")
    (chart / "values.yaml").write_text("replicas: 2\ntag: one\nmore: true\nautoscale: false\n")
    (chart / "templates/set.yaml").write_text(SET)
    (chart / "templates/settings.yaml").write_text(SETTINGS)
    return str(chart)


class Helm:
    """Each action in a thread: the server that it calls is in this process."""

    def __init__(self, found: Release, folder: Path) -> None:
        self.chart = write_chart(folder)
        config = write_kubeconfig(folder / "kubeconfig-helm", found.kube.url, TOKEN)
        self._config = helm.Config(kubeconfig_path=config, namespace=NAMESPACE, storage_driver="memory")

    async def do(self, action: str, *arguments: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self._config, action), *arguments, **options)

    async def upgrade(self, **values: Any) -> Any:
        return await self.do("upgrade", self.chart, "demo", values)


async def test_a_chart_from_its_first_to_its_last_day(tmp_path: Path) -> None:
    async with release(tmp_path, open_to_all=True) as found:
        it = Helm(found, tmp_path)
        store = found.kube.store
        maps = store.resources["", "configmaps"]

        def settings() -> dict[str, str]:
            data: dict[str, str] = store.get(maps, NAMESPACE, "demo-settings")["data"]
            return data

        await it.do("install", it.chart, "demo", {})
        assert settings() == {"tag": "one", "more": "yes"}
        await until(lambda: found.names() == ["demo-encoder-0", "demo-encoder-1"])
        await it.upgrade(tag="two", more=False, replicas=3)
        assert settings() == {"tag": "two"}, "what a chart does not render any more is removed"
        await until(lambda: len(found.names()) == 3)
        await it.do("rollback", "demo", version=1)
        assert settings() == {"tag": "one", "more": "yes"}
        assert found.replicas("encoder") == 2
        history = await it.do("history", "demo")
        assert len(history) == 3
        await it.do("uninstall", "demo")
        assert not store.list(found.sets, NAMESPACE)
        assert not [
            item for item in store.list(maps, NAMESPACE) if item["metadata"]["name"] == "demo-settings"
        ]


async def test_an_upgrade_leaves_alone_what_the_autoscaler_set(tmp_path: Path) -> None:
    async with release(tmp_path, open_to_all=True) as found:
        it = Helm(found, tmp_path)
        await it.do("install", it.chart, "demo", {"autoscale": True})
        await until(lambda: found.names() == ["demo-encoder-0"])  # the status is written, too
        scale = await found.api.read_scale("demo-encoder")
        await found.api.set_scale("demo-encoder", 4, scale["metadata"]["resourceVersion"])
        await it.upgrade(autoscale=True, tag="two")
        assert found.replicas("encoder") == 4
        with pytest.raises(helm.HelmError, match=r"conflict.*tandem"):
            await it.upgrade(autoscale=False, tag="three", replicas=1)
        assert found.replicas("encoder") == 4


async def test_what_the_schema_does_not_know_is_not_installed(tmp_path: Path) -> None:
    async with release(tmp_path, open_to_all=True) as found:
        it = Helm(found, tmp_path)
        (Path(it.chart) / "templates/set.yaml").write_text(SET.replace("serviceName", "serviceNam"))
        with pytest.raises(helm.HelmError, match="serviceNam"):
            await it.do("install", it.chart, "demo", {})
