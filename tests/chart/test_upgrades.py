"""From the chart of the release before to the present one, and back, with Helm at an API server."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tests.chart.rendering import CHART, NAMESPACE, Object, merged, read, render
from tests.chart.test_release import Helm, server

FORMER_FILES = Path(__file__).parent / "former"
(FORMER,) = FORMER_FILES.glob("tandem-*.tgz")
VALUES = sorted((FORMER_FILES / "ci").glob("*-values.yaml"))
IMMUTABLE = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
"""What Kubernetes never changes of a StatefulSet."""


NOW_TOO: dict[str, Object] = {
    "colocated-values.yaml": {"networkPolicy": {"metrics": {"from": [{"podSelector": {}}]}}},
}
"""What the present chart wants of values besides: it refused nobody who could scrape nothing."""


@pytest.fixture
async def helm() -> AsyncIterator[Helm]:
    async with server.fake_kube() as kube:
        yield Helm(kube)


def former(name: str) -> Any:
    """A YAML file of the former chart."""
    with tarfile.open(FORMER) as packed:
        file = packed.extractfile(f"tandem/{name}")
        assert file is not None
        return yaml.safe_load(file.read())


def claim_like_a_controller(helm: Helm) -> None:
    """Makes the claims of every StatefulSet, as the controller manager does."""
    claims = helm.kube.store.resources["", "persistentvolumeclaims"]
    for (kind, name), item in helm.objects().items():
        for template in item["spec"].get("volumeClaimTemplates", ()) if kind == "StatefulSet" else ():
            meta = {"name": f"{template['metadata']['name']}-{name}-0"}
            helm.kube.store.create(claims, NAMESPACE, {"metadata": meta, "spec": template["spec"]})


def sets(objects: dict[tuple[str, str], Object]) -> dict[str, Object]:
    return {name: item["spec"] for (kind, name), item in objects.items() if kind == "StatefulSet"}


def stays(objects: dict[tuple[str, str], Object]) -> dict[str, object]:
    """What an upgrade and a rollback must leave as it is."""
    found: dict[str, object] = {}
    for (kind, name), item in objects.items():
        if kind == "PersistentVolumeClaim":
            found[name] = (item["metadata"]["uid"], item["spec"])
        if kind == "Secret":
            found[name] = item["data"]
        if kind == "StatefulSet":
            found[name] = {field: item["spec"].get(field) for field in IMMUTABLE}
    return found


def releases(objects: dict[tuple[str, str], Object]) -> set[str]:
    """Tags of the images that run, but of those that the values pin by digest."""
    pods = [spec["template"]["spec"] for spec in sets(objects).values()]
    names = {container["image"] for pod in pods for container in pod["containers"]}
    return {name.rpartition(":")[2] for name in names if "@" not in name}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.name.removesuffix("-values.yaml"))
async def test_a_release_of_the_former_chart_is_upgraded_and_rolled_back(helm: Helm, values: Path) -> None:
    await helm.install(read(values), FORMER)
    claim_like_a_controller(helm)
    first = helm.objects()
    present = merged(read(values), NOW_TOO.get(values.name, {}))
    if present != read(values):
        with pytest.raises(helm_python.HelmError, match=r"networkPolicy\.metrics\.from"):
            await helm.upgrade(read(values))
    await helm.upgrade(present)
    second = helm.objects()
    assert stays(second) == stays(first)
    assert set(second) == set(first)
    assert releases(second) <= {read(CHART / "Chart.yaml")["appVersion"]}
    await helm.rollback(1)
    third = helm.objects()
    assert stays(third) == stays(first)
    assert releases(third) == releases(first) <= {former("Chart.yaml")["appVersion"]}


async def test_values_of_before_can_be_kept(helm: Helm) -> None:
    """With `--reuse-values` the former chart's own values come alone: what is new is as it is by default."""
    await helm.install({"insecure": True, "encoder": {"replicas": 3}}, FORMER)
    await helm.upgrade({}, reuse_values=True)
    assert releases(helm.objects()) == {read(CHART / "Chart.yaml")["appVersion"]}
    assert sets(helm.objects())["video-encoder"]["replicas"] == 3


async def test_a_partition_that_was_set_by_hand_stays(helm: Helm) -> None:
    """As docs/upgrades.md has it, for trying a release on one pod first."""
    await helm.install({"insecure": True, "reasoner": {"replicas": 2}}, FORMER)
    resource = helm.kube.store.resources["apps", "statefulsets"]
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    helm.kube.store.edit(
        resource, NAMESPACE, "video-reasoner", lambda item: item["spec"].update(updateStrategy=strategy)
    )
    await helm.upgrade({"insecure": True, "reasoner": {"replicas": 2}})
    reasoner = sets(helm.objects())["video-reasoner"]
    assert reasoner["updateStrategy"] == strategy
    assert releases(helm.objects()) == {read(CHART / "Chart.yaml")["appVersion"]}


def leaves(values: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_a_key_of_the_former_chart_is_taken_or_refused_by_name() -> None:
    """One that is gone may not be left unread in somebody's values: the schema says where it went."""
    present = set(leaves(read(CHART / "values.yaml")))
    there = {path[:depth] for path in present for depth in range(len(path) + 1)}
    values = former("values.yaml")
    render({**values, "insecure": True})
    for path in leaves(values):
        if path in there:
            continue
        place: Any = values
        for key in path:
            place = place[key]
        for key in reversed(path):
            place = {key: place}
        with pytest.raises(helm_python.HelmError, match=path[-1]):
            render({"insecure": True, **place})


def test_the_former_chart_is_of_the_release_before() -> None:
    """After a release, the chart of that release takes its place here."""
    before = [int(part) for part in former("Chart.yaml")["version"].split(".")]
    present = [int(part) for part in read(CHART / "Chart.yaml")["version"].split(".")]
    assert present[:2] == [before[0], before[1] + 1]
