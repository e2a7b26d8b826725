"""The chart as Helm itself renders it, from the library that Helm is compiled into."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml
from helm_python import _native

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
CI_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
OLDEST, MIDDLE, NEWEST = "1.27", "1.31", "1.36"
RELEASE, NAMESPACE = "video", "cameras"
Object = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What one set of values comes to."""

    objects: tuple[Object, ...]
    notes: str

    def of(self, *kinds: str) -> Iterator[Object]:
        """Objects of these kinds."""
        return (each for each in self.objects if each["kind"] in kinds)

    def named(self, kind: str, name: str) -> Object:
        """One of them."""
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, Object, Object]]:
        """Name, labels and spec of everything that becomes a pod."""
        for each in self.of("StatefulSet", "Deployment", "Job", "DaemonSet"):
            template = each["spec"]["template"]
            yield each["metadata"]["name"], template["metadata"]["labels"], template["spec"]
        for each in self.of("Pod"):
            yield each["metadata"]["name"], each["metadata"]["labels"], each["spec"]


def read(path: Path) -> Object:
    """A values file."""
    values: Object = yaml.safe_load(path.read_text())
    return values


def render_texts(
    values: Object,
    kube: str = MIDDLE,
    name: str = RELEASE,
    path: Path = CHART,
    namespace: str = NAMESPACE,
) -> dict[str, str]:
    """Template by template. Raises helm_python.HelmError with Helm's own words.

    A chart that has been rendered once is changed by it, so each rendering loads its own. The public call
    does not say which Kubernetes it is for; the native one does, and refuses options that it does not know.
    """
    chart = helm_python.Chart.load(path)
    options = {"name": name, "namespace": namespace, "kube_version": f"v{kube}.0"}
    texts: dict[str, str] = json.loads(
        _native.call_string("helm_render", chart._raw(), json.dumps(values), json.dumps(options))
    )
    return texts


def parse(texts: dict[str, str]) -> Rendered:
    """The objects in what was rendered."""
    objects = [
        each
        for path, text in texts.items()
        if path.endswith(".yaml")
        for each in yaml.load_all(text, Loader=_LOADER)
        if each
    ]
    return Rendered(tuple(objects), next(text for path, text in texts.items() if path.endswith("NOTES.txt")))


def render(values: Object, kube: str = MIDDLE, name: str = RELEASE) -> Rendered:
    """All of it."""
    return parse(render_texts(values, kube, name))


@functools.cache
def render_file(path: Path, kube: str = MIDDLE) -> Rendered:
    """What a file of `helm/ci/` comes to; the same object for all who ask, so nobody may change it."""
    return render(read(path), kube)


def defaults() -> Object:
    """The chart's own values, and the leave to be insecure that they ask for."""
    return merged(read(CHART / "values.yaml"), {"insecure": True})


def merged(base: Object, more: Object) -> Object:
    """`base` with `more` laid over it, as Helm does."""
    result = copy.deepcopy(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


class _NoDuplicates(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML itself takes the last of two equal keys in silence."""


def _mapping(loader: Any, node: Any) -> Object:
    keys = [key.value for key, _ in node.value]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{node.start_mark}: keys twice: {twice}")
    result: Object = loader.construct_mapping(node, deep=True)
    return result


_NoDuplicates.add_constructor("tag:yaml.org,2002:map", _mapping)
_LOADER = _NoDuplicates
