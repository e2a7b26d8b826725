"""Every values file of the chart passes Helm's strict lint, and Kubernetes takes every object of it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import helm_python
import kubernetes_validate.utils
import pytest

from tests.chart.rendering import (
    CHART,
    CI_FILES,
    MIDDLE,
    NEWEST,
    OLDEST,
    Object,
    defaults,
    read,
    render,
    render_file,
)

FOREIGN = ("monitoring.coreos.com/", "keda.sh/", "cert-manager.io/", "gateway.networking.k8s.io/")
"""Groups of other projects, which Kubernetes' own schemas do not know; see test_foreign.py."""
# It reads megabytes of JSON for every object otherwise.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
_checked: set[str] = set()
"""Objects that several files render alike are checked once for each version."""


def check(obj: Object, kube: str) -> None:
    if obj["apiVersion"].startswith(FOREIGN):
        return
    text = kube + json.dumps(obj, sort_keys=True)
    if text not in _checked:
        kubernetes_validate.validate(obj, kube, strict=True)
        _checked.add(text)


@pytest.mark.parametrize("kube", [OLDEST, pytest.param(MIDDLE, marks=pytest.mark.slow), NEWEST])
@pytest.mark.parametrize("path", CI_FILES, ids=lambda path: path.stem)
def test_it_lints_renders_and_fits_the_schemas(path: Path, kube: str) -> None:
    report = helm_python.lint(CHART, read(path), strict=True, kube_version=f"v{kube}.0")
    worse_than_info = [each for each in report["messages"] if each["severity"] > 1]
    assert (worse_than_info, report["errors"], report["total_charts_linted"]) == ([], [], 1)
    for obj in render_file(path, kube).objects:
        check(obj, kube)


def test_the_schemas_find_what_is_wrong() -> None:
    for change in ({"replicaz": 1}, {"replicas": "one"}):
        broken = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "x"}, "spec": change}
        with pytest.raises(kubernetes_validate.ValidationError):
            check(broken, NEWEST)


def test_there_is_a_file_for_each_feature() -> None:
    """Every kind of object, and every choice of every mode, is rendered by some file."""
    kinds = {each["kind"] for path in CI_FILES for each in render_file(path).objects}
    assert kinds == {
        *("StatefulSet", "Service", "ServiceAccount", "Role", "RoleBinding", "Secret", "ConfigMap", "Pod"),
        *("NetworkPolicy", "PodDisruptionBudget", "PersistentVolumeClaim", "HorizontalPodAutoscaler"),
        *("ScaledObject", "Certificate", "PodMonitor", "ServiceMonitor", "PrometheusRule", "Ingress"),
        "GRPCRoute",
    }


def test_helm_would_install_it() -> None:
    """The install action itself, without a cluster: it holds the chart against its `kubeVersion`, too."""
    config = helm_python.Config(namespace="cameras", storage_driver="memory")
    release = config.install(CHART, "video", {"insecure": True}, dry_run="client")
    assert "What is weak in these values" in json.dumps(release)


def test_values_that_were_said_twice_are_the_defaults() -> None:
    """What values.yaml says is what an empty values file means."""
    said, unsaid = render(defaults()), render({"insecure": True})
    without_secret = [
        [each for each in rendered.objects if each["kind"] != "Secret"] for rendered in (said, unsaid)
    ]
    assert without_secret[0] == without_secret[1]
