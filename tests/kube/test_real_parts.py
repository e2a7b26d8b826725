"""What the job with a real API server decides, without one: the chart's copy, commands, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import CHART, CI_FILES, parse, read, render_texts
from tests.kube.real.commands import command, environment, expand, quantity
from tests.kube.real.dialect import copy_chart
from tests.kube.real.probes import AS_COMMAND
from tests.kube.real.services import names, targets


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_chart(CHART, tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("file", CI_FILES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_every_pod_of_the_chart_can_be_run(copy: Path, file: Path) -> None:
    """Its variables are of kinds that the kubelet of the tests knows, and nothing is left to be expanded."""
    rendered = parse(render_texts(read(file), "1.27", "video", copy))
    for name, _, spec in rendered.pods():
        meta = {"name": f"{name}-0", "namespace": "cameras", "uid": "u"}
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            own = environment(container, {"metadata": meta, "spec": spec}, "10.77.1.1", lambda _, key: key)
            words = command(container, own)
            assert not [word for word in words if "$(" in word], (name, words)
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe := container.get(kind):
                    assert probe["exec"]["command"][0] == AS_COMMAND


def test_a_change_that_the_chart_has_outgrown_is_told(tmp_path: Path) -> None:
    chart = tmp_path / "chart-of-today"
    copy_chart(CHART, tmp_path / "first").rename(chart)  # 1.20 already: nothing is left to be changed
    with pytest.raises(AssertionError, match="Chart"):
        copy_chart(chart, tmp_path / "second")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--listen=$(POD_IP):1", "--listen=10.0.0.1:1"),
        ("$$(POD_IP)", "$(POD_IP)"),
        ("$(NONE)$5", "$(NONE)$5"),
    ],
)
def test_variables_are_expanded_as_a_kubelet_does(text: str, expanded: str) -> None:
    assert expand(text, {"POD_IP": "10.0.0.1"}) == expanded


def test_quantities() -> None:
    assert [quantity(each) for each in ("4Gi", "500M", "1024", "1.5Ki")] == [4 << 30, 500_000_000, 1024, 1536]


def test_services_have_addresses_and_pods_have_names() -> None:
    port = {"name": "grpc", "port": 7420}
    services: list[dict[str, Any]] = [
        service("door", {"clusterIP": "10.96.0.9", "ports": [port]}),
        service("pods", {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": [port]}),
    ]
    ready, late = {"ip": "10.77.1.1", "hostname": "a-0"}, {"ip": "10.77.1.2", "hostname": "a-1"}
    subsets = [{"addresses": [ready], "notReadyAddresses": [late], "ports": [{"name": "grpc", "port": 7421}]}]
    endpoints = [{"metadata": each["metadata"], "subsets": subsets} for each in services]
    lines = names(services, endpoints).splitlines()
    assert "10.96.0.9 door.ns.svc.cluster.local door.ns.svc door.ns" in lines
    assert "10.77.1.2 a-1.pods.ns.svc.cluster.local a-1.pods.ns.svc a-1.pods.ns" in lines
    assert targets(endpoints[0], port) == [("10.77.1.1", 7421)], "what is not ready gets no connection"


def service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": spec}
