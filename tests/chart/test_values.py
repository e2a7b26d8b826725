"""Every value counts, is described, and is refused when it cannot work, with words that name it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import pytest
import yaml

from encoder_svc.config import LOG_LEVELS
from tandem.core.blocks import DTYPE_BYTES, Codec
from tandem.core.choices import RETRIEVAL
from tandem.core.logs import FORMATS
from tests.chart.rendering import (
    _LOADER,
    CHART,
    CI_FILES,
    Object,
    defaults,
    merged,
    read,
    render,
    render_texts,
)

SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
WITHOUT_EFFECT = {("global",), ("insecure",)}
"""Of these nothing is rendered: one is for other charts, the other only for the check of values."""


def schema_of(path: tuple[str, ...]) -> Object:
    """The schema's words on one value."""
    place = SCHEMA
    for part in path:
        place = resolve(place["properties"][part])
    return place


def resolve(place: Object) -> Object:
    if "$ref" in place:
        return dict(SCHEMA["$defs"][place["$ref"].rpartition("/")[2]])
    return place


def leaves(values: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every value that can be set: maps whose keys the chart does not know are one."""
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and schema_of(here).get("additionalProperties") is False:
            yield from leaves(value, here)
        else:
            yield here


DEFAULTS = read(CHART / "values.yaml")
LEAVES = list(leaves(DEFAULTS))


def at(values: Object, path: tuple[str, ...]) -> Any:
    for part in path:
        values = values[part]
    return values


def nested(path: tuple[str, ...], value: Any) -> Object:
    for part in reversed(path):
        value = {part: value}
    assert isinstance(value, dict)
    return value


SAMPLES = (
    *(
        "other",
        "other.example/gpu",
        "7Gi",
        "http://other:1",
        "97m",
        "sha256:" + "a" * 64,
        "b" * 40,
        "cpu",
        "cuda",
        "float32",
    ),
    *(2, 3, 97, 40_000, 65_537, 20_000_000, {"kept": "1"}, {"cpu": "3", "memory": "9Gi"}),
    [{"name": "other", "mountPath": "/other"}],
    *([{"name": "other"}], [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}]),
    *([{"ipBlock": {"cidr": "192.0.2.0/28"}}], ["--other-option=1"], ["192.0.2.0/28"], [999]),
)


def others(path: tuple[str, ...], own: Any) -> Iterator[Any]:
    """Values that the schema allows and that are not this one."""
    schema = schema_of(path)
    allowed = jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **schema})
    for each in (*schema.get("enum", ()), at(DEFAULTS, path), not own, *SAMPLES):
        if (each != own or type(each) is not type(own)) and allowed.is_valid(each):
            yield each


def nearest(path: tuple[str, ...], values: Object) -> int:
    """How far down a values file speaks of what is around a value."""
    for depth, part in enumerate(path):
        if not isinstance(values, dict) or part not in values:
            return depth
        values = values[part]
    return len(path)


class Quick:
    """The chart without its schema, whose check takes most of the time of a rendering; each values once."""

    def __init__(self, path: Path) -> None:
        shutil.copytree(CHART, path, ignore=shutil.ignore_patterns("values.schema.json"))
        self._path = path
        self._known: dict[str, str | None] = {}

    def render(self, values: Object) -> str | None:
        """One text; None when the values do not go together."""
        key = json.dumps(values)
        if key not in self._known:
            self._known[key] = self._render(values)
        return self._known[key]

    def render_as(self, values: Object, name: str, namespace: str) -> str:
        """One text, of another release and namespace."""
        texts = render_texts(values, name=name, path=self._path, namespace=namespace)
        return "\n---\n".join(text for path, text in texts.items() if not path.endswith("/secret.yaml"))

    def _render(self, values: Object) -> str | None:
        try:
            texts = render_texts(values, path=self._path)
        except helm_python.HelmError:
            return None
        # The made secret is another one each time.
        return "\n---\n".join(text for path, text in texts.items() if not path.endswith("/secret.yaml"))


def objects(text: str) -> list[str]:
    """The objects in it, each as text; the notes are none."""
    found = re.split(r"^---$", re.sub(r" *checksum/.*", "", text), flags=re.MULTILINE)
    return [each for each in found if "apiVersion:" in each]


def compare(plain: str, found: str, odd: str) -> None:
    """What has the plain text in it has the odd one there, and nothing else is different."""
    for before, after in zip(objects(plain), objects(found), strict=True):
        if PLAIN in before or before != after:
            values = (yaml.load(each, Loader=_LOADER) for each in (before, after))
            assert with_odd(next(values), odd) == next(values), odd


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    return Quick(tmp_path_factory.mktemp("chart") / "tandem")


CONTEXTS = [read(path) for path in sorted(CI_FILES, key=lambda path: path.stem != "default-values")]


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_value_changes_what_is_rendered(path: tuple[str, ...], quick: Quick) -> None:
    if path in WITHOUT_EFFECT:
        return
    for context in sorted(CONTEXTS, key=lambda each: -nearest(path, each)):
        own = at(merged(DEFAULTS, context), path)
        for other in others(path, own):
            if quick.render(merged(context, nested(path, other))) not in {None, quick.render(context)}:
                return
    pytest.fail(f"{'.'.join(path)} is read nowhere")


def test_the_schema_knows_every_value_and_no_other() -> None:
    def compare(values: Object, schema: Object, where: str) -> None:
        schema = resolve(schema)
        if schema.get("additionalProperties") is not False:
            return
        assert set(schema["properties"]) == set(values), where
        for key, value in values.items():
            if isinstance(value, dict):
                compare(value, schema["properties"][key], f"{where}.{key}")

    compare(DEFAULTS, SCHEMA, "")
    open_objects = [
        path
        for path in LEAVES
        if isinstance(at(DEFAULTS, path), dict) and len(path) < 2 and path != ("global",)
    ]
    assert open_objects == []


BAD = {
    "a key that is not known": ({"encoders": {"replicas": 2}}, "encoders"),
    "a key that is not known, deep": ({"encoder": {"gpu": {"counts": 1}}}, "counts"),
    "no replicas of the orchestrator": ({"orchestrator": {"replicas": 0}}, "/orchestrator/replicas"),
    "half a replica": ({"encoder": {"replicas": 1.5}}, "/encoder/replicas"),
    "a mode that is none": ({"mode": "together"}, "/mode"),
    "a tag that moves": ({"encoder": {"image": {"tag": "latest"}}}, "encoder.image.tag: latest"),
    "a digest that is short": ({"reasoner": {"image": {"digest": "sha256:12"}}}, "/reasoner/image/digest"),
    "a pull policy that is none": ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    "root": ({"podSecurity": {"id": 0}}, "/podSecurity/id"),
    "a size that is none": ({"reasoner": {"disk": {"size": "100 GB"}}}, "/reasoner/disk/size"),
    "a codec that is none": ({"model": {"blockCodec": "zip"}}, "/model/blockCodec"),
    "a device that is none": ({"encoder": {"device": "gpu"}}, "/encoder/device"),
    "an option without dashes": ({"encoder": {"extraArgs": ["threads 4"]}}, "/encoder/extraArgs"),
    "a token in the values": ({"tokens": {"token": "hunter2"}}, "token"),
    "a secret in the values": ({"clusterSecret": {"secret": "hunter2hunter2hunter2"}}, "secret"),
    "a backlog below one message": ({"orchestrator": {"backlogBytes": 1}}, "/orchestrator/backlogBytes"),
    "a budget of nothing": ({"reasoner": {"pdb": {"maxUnavailable": 0}}}, "/reasoner/pdb/maxUnavailable"),
    "neither tokens nor TLS": ({"insecure": False}, "insecure:"),
    "no certificates": ({"tls": {"mode": "existingSecret"}}, "tls.existingSecrets.encoder:"),
    "no issuer": ({"tls": {"mode": "certManager"}}, "tls.certManager.issuerRef.name:"),
    "neither certificates nor tokens": (
        {
            "tls": {
                "mode": "certManager",
                "clientCertificates": False,
                "certManager": {"issuerRef": {"name": "x"}},
            }
        },
        "tls.clientCertificates:",
    ),
    "no claim": ({"model": {"cache": {"mode": "existingClaim"}}}, "model.cache.existingClaim:"),
    "offline without a checkpoint": ({"model": {"cache": {"offline": True}}}, "model.cache.offline:"),
    "a range of ports that is empty": (
        {"network": {"lanePorts": {"first": 50000, "last": 40000}}},
        "network.lanePorts:",
    ),
    "cuda without a GPU": ({"encoder": {"device": "cuda"}}, "encoder.gpu.count"),
    "GPUs twice": (
        {"encoder": {"gpu": {"count": 1, "claimTemplate": "x"}}},
        "encoder.gpu.claimTemplate:",
    ),
    "fewest above most": (
        {
            "encoder": {"autoscaling": {"mode": "orchestrator", "minReplicas": 5}},
            "reasoner": {"autoscaling": {"mode": "orchestrator"}},
        },
        "encoder.autoscaling.minReplicas: 5",
    ),
    "one role that the orchestrator scales": (
        {"encoder": {"autoscaling": {"mode": "orchestrator"}}},
        "reasoner.autoscaling.mode:",
    ),
    "two scalers": ({"encoder": {"autoscaling": {"mode": ["hpa", "keda"]}}}, "/encoder/autoscaling/mode"),
    "KEDA without a Prometheus": (
        {"metrics": {"scrape": "podMonitor"}, "reasoner": {"autoscaling": {"mode": "keda"}}},
        "reasoner.autoscaling.keda.prometheus:",
    ),
    "a scaler without metrics": ({"encoder": {"autoscaling": {"mode": "hpa"}}}, "metrics.scrape:"),
    "pairs scaled by their encoders": (
        {
            "mode": "colocated",
            "metrics": {"scrape": "podMonitor"},
            "encoder": {"autoscaling": {"mode": "hpa"}},
        },
        "encoder.autoscaling.mode:",
    ),
    "two ports in one annotation": (
        {"mode": "colocated", "metrics": {"scrape": "annotations"}},
        "metrics.scrape:",
    ),
    "memory that the RAM tier fills": (
        {"reasoner": {"ramBytes": 4294967296}},
        "reasoner.resources.limits.memory:",
    ),
    "a disk budget above the disk": (
        {"reasoner": {"disk": {"mode": "persistent", "size": "10Gi", "bytes": 20000000000}}},
        "reasoner.disk.bytes:",
    ),
    "an Ingress that the policy keeps out": (
        {"ingress": {"enabled": True, "host": "a.example", "tlsSecret": "a"}},
        "networkPolicy.frontDoor.from:",
    ),
    "an Ingress without a host": ({"ingress": {"enabled": True, "tlsSecret": "a"}}, "ingress.host:"),
    "an Ingress without TLS": ({"ingress": {"enabled": True, "host": "a.example"}}, "ingress.tlsSecret:"),
    "an Ingress that speaks plain text to TLS": (
        {
            "ingress": {"enabled": True, "host": "a.example", "tlsSecret": "a"},
            "tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "x"}}},
        },
        "ingress.annotations:",
    ),
    "a label that selectors go by": (
        {"encoder": {"podLabels": {"app.kubernetes.io/component": "x"}}},
        "encoder.podLabels:",
    ),
    "a route without a Gateway": ({"gateway": {"enabled": True}}, "gateway.parentRefs:"),
    "a Gateway before mutual TLS": (
        {
            "gateway": {"enabled": True, "parentRefs": [{"name": "x"}]},
            "tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "x"}}},
        },
        "gateway.enabled:",
    ),
    "a model without room": (
        {"model": {"name": "org/model"}, "networkPolicy": {"enabled": False}},
        'model.cache.mode: model.name, "org/model"',
    ),
    "a hub that the policy keeps pods from": (
        {"model": {"name": "org/model", "cache": {"mode": "emptyDir"}}},
        "networkPolicy.extraEgress: model.name",
    ),
    "an embedder without room": (
        {"model": {"embedder": "org/siglip"}, "networkPolicy": {"enabled": False}},
        "model.cache.mode: model.embedder",
    ),
    "a collector that the policy keeps pods from": (
        {"tracing": {"endpoint": "http://collector:4317"}},
        "networkPolicy.extraEgress: tracing.endpoint",
    ),
    "more memory asked for than allowed": (
        {"encoder": {"resources": {"limits": {"memory": "2G"}}, "decode": {"memoryBytes": 67108864}}},
        "encoder.resources.requests.memory: 2Gi is more than the limit, 2G",
    ),
    "more of a processor asked for than allowed": (
        {"orchestrator": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}},
        "orchestrator.resources.requests.cpu: 2 is more than the limit, 1500m",
    ),
    "a way of retrieval that is none": ({"reasoner": {"retrieval": "best"}}, "/reasoner/retrieval"),
    "external retrieval without an embedder": (
        {"reasoner": {"retrieval": "external"}, "model": {"embedder": "off"}},
        "reasoner.retrieval: external",
    ),
    "a key that is taken away": ({"podSecurity": {"id": None}}, "missing property 'id'"),
    "a part that is taken away": ({"encoder": {"autoscaling": None}}, "missing property 'autoscaling'"),
    "metrics that nobody can fetch": ({"metrics": {"scrape": "podMonitor"}}, "networkPolicy.metrics.from:"),
    "a model that may change": (
        {"model": {"name": "org/model", "cache": {"mode": "emptyDir"}}, "networkPolicy": {"enabled": False}},
        "model.revision:",
    ),
    "a model at a branch": ({"model": {"name": "org/model", "revision": "main"}}, "/model/revision"),
    "a commit of no hub": ({"model": {"revision": "a" * 40}}, 'model.revision: model.name, "default"'),
    "an embedder that may change": ({"model": {"embedder": "org/siglip"}}, "model.embedderRevision:"),
    "a decoder above its container": (
        {"encoder": {"decode": {"memoryBytes": 4294967296}}},
        "encoder.resources.limits.memory:",
    ),
    "a decoder without time": ({"encoder": {"decode": {"cpuSeconds": 0}}}, "/encoder/decode/cpuSeconds"),
    "a variable of the chart": (
        {"encoder": {"extraEnv": [{"name": "POD_IP", "value": "10.0.0.1"}]}},
        "encoder.extraEnv: POD_IP",
    ),
    "a volume of the chart": (
        {"encoder": {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}},
        "encoder.extraVolumes: tmp",
    ),
    "an option that probes go by": (
        {"reasoner": {"extraArgs": ["--health=127.0.0.1:1"]}},
        "reasoner.extraArgs: --health:",
    ),
    "a service that asks nobody": (
        {"orchestrator": {"service": {"externalTrafficPolicy": "Nearest"}}},
        "/orchestrator/service/externalTrafficPolicy",
    ),
    "alerts without metrics": ({"metrics": {"rules": {"enabled": True}}}, "metrics.rules.enabled:"),
}


@pytest.mark.parametrize("what", BAD)
def test_values_that_cannot_work_are_refused_by_name(what: str) -> None:
    values, name = BAD[what]
    with pytest.raises(helm_python.HelmError) as caught:
        render(merged({"insecure": True}, values))
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["2024", "my.app"])
def test_a_name_that_no_service_may_have_is_refused(name: str) -> None:
    """Helm itself takes these."""
    with pytest.raises(helm_python.HelmError, match="release name:"):
        render(defaults(), name=name)


ODD = ("1e3", "true", """it's "quoted": {{ .Release.Name }} # c""", "two\n- lines")
PLAIN = "plain7"


def with_odd(value: Any, odd: str) -> Any:
    """`value` with the odd text for the plain one."""
    if isinstance(value, dict):
        return {key.replace(PLAIN, odd): with_odd(each, odd) for key, each in value.items()}
    if isinstance(value, list):
        return [with_odd(each, odd) for each in value]
    return value.replace(PLAIN, odd) if isinstance(value, str) else value


@pytest.mark.parametrize("path", [p for p in LEAVES if isinstance(at(DEFAULTS, p), str)], ids=".".join)
def test_no_text_is_taken_for_something_else(path: tuple[str, ...], quick: Quick) -> None:
    """A storage class called "true" is a text, and a question with a colon in it is one word."""
    schema = schema_of(path)
    allowed = jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **schema})
    if not allowed.is_valid(PLAIN):
        return  # one of a few, or of a form of its own
    for context in sorted(CONTEXTS, key=lambda each: -nearest(path, each)):
        plain = quick.render(merged(context, nested(path, PLAIN)))
        if plain is None or PLAIN not in plain:
            continue
        for odd in (each for each in ODD if allowed.is_valid(each)):
            found = quick.render(merged(context, nested(path, odd)))
            assert found is not None
            compare(plain, found, odd)
        return


def test_a_release_or_namespace_that_looks_like_no_text(quick: Quick) -> None:
    values = read(CHART / "ci/observed-values.yaml")
    plain = quick.render_as(values, PLAIN, PLAIN)
    for odd in ("true", "null", "y", "no"):
        compare(plain, quick.render_as(values, odd, odd), odd)


def test_a_long_name_of_a_release_is_refused() -> None:
    assert render(defaults(), name="x" * 39).objects
    with pytest.raises(helm_python.HelmError, match=r"release name: .* 40 characters"):
        render(defaults(), name="x" * 40)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(helm_python.HelmError) as caught:
        render({"tls": {"mode": "existingSecret"}, "gateway": {"enabled": True}})
    for name in ("orchestrator", "encoder", "reasoner"):
        assert f"- tls.existingSecrets.{name}:" in str(caught.value)
    assert "- gateway.parentRefs:" in str(caught.value)


def test_the_notes_say_what_is_weak() -> None:
    open_door = render({"insecure": True, "networkPolicy": {"enabled": False}}).notes
    assert "tls.mode is disabled" in open_door
    assert "whoever reaches the front door can watch" in open_door
    assert "every pod of the cluster reaches every port" in open_door
    secure = render(read(CHART / "ci/secure-values.yaml")).notes
    assert "tls.mode is disabled" not in secure
    assert "no tokens" not in secure
    assert "image.digest" not in secure
    assert "video-orchestrator.cameras.svc:7420" in secure


def test_the_notes_say_what_stands_idle_or_is_overcommitted() -> None:
    values = {"insecure": True, "encoder": {"gpu": {"count": 2}}, "networkPolicy": {"enabled": False}}
    notes = render(values).notes
    assert "encoder.gpu.count is 2" in notes
    assert "reasoner.gpu.count" not in notes
    assert "orchestrator.resources.limits.memory is 2Gi, and maxStreams × backlogBytes 17179869184" in notes
    assert "backlogBytes" not in render(merged(values, {"orchestrator": {"maxStreams": 32}})).notes


def test_the_test_runs_where_the_orchestrator_does() -> None:
    """On nodes that are set aside nothing else is scheduled."""
    on = {
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
    }
    spec = render(merged(defaults(), {"orchestrator": on})).named("Pod", "video-test")["spec"]
    assert {key: spec[key] for key in on} == on
    assert spec["activeDeadlineSeconds"] > 0


@pytest.mark.parametrize(
    ("limit", "threads", "told"),
    [(None, 0, 0), ("4", 0, 4), ("2500m", 0, 3), (0.5, 0, 1), ("4", 2, 2)],
)
def test_torch_has_as_many_threads_as_it_may_use(limit: object, threads: int, told: int) -> None:
    """It counts the node's processors: 64 threads on 4 of them wait for each other."""
    limits = {"cpu": limit} if limit else {}
    own = {"threads": threads, "resources": {"requests": {"cpu": "100m"}, "limits": limits}}
    rendered = render(merged(defaults(), {"encoder": own}))
    (container,) = rendered.named("StatefulSet", "video-encoder")["spec"]["template"]["spec"]["containers"]
    assert f"--threads={told}" in container["args"]


def test_what_may_be_chosen_is_what_the_programs_know() -> None:
    """What the schema lets through and the program refuses is a pod that starts again and again."""

    def choices(*path: str) -> set[str]:
        return set(schema_of(path)["enum"])

    assert choices("reasoner", "retrieval") == set(RETRIEVAL)
    assert choices("model", "blockCodec") == {str(each) for each in Codec}
    assert choices("log", "level") == set(LOG_LEVELS)
    assert choices("log", "format") == set(FORMATS)
    assert choices("model", "dtype") == {"", *DTYPE_BYTES}


def test_volumes_of_both_roles_are_in_a_pair_and_each_once() -> None:
    """Of two containers that mount the same certificates the pod has one volume."""
    extra = {
        "extraVolumes": [{"name": "proxy-ca", "configMap": {"name": "company-ca"}}],
        "extraVolumeMounts": [{"name": "proxy-ca", "mountPath": "/etc/company"}],
    }
    values = {"mode": "colocated", "encoder": extra, "reasoner": extra}
    spec = render(merged(defaults(), values)).named("StatefulSet", "video-pair")["spec"]["template"]["spec"]
    assert [each["name"] for each in spec["volumes"]].count("proxy-ca") == 1
    for each in spec["containers"]:
        assert {"name": "proxy-ca", "mountPath": "/etc/company"} in each["volumeMounts"]


NEW = (
    ("model", "revision"), ("model", "embedderRevision"), ("encoder", "decode"),
    ("orchestrator", "service", "externalTrafficPolicy"), ("networkPolicy", "dns", "ports"),
    *(
        (role, key)
        for role in ("orchestrator", "encoder", "reasoner")
        for key in ("extraVolumes", "extraVolumeMounts", "serviceAccountAnnotations")
    ),
)  # fmt: skip
"""Keys that the release before does not have."""


def test_the_values_of_the_release_before_are_enough() -> None:
    """`helm upgrade --reuse-values` brings no other; what is new is then as it is by default."""
    values = merged(
        read(CHART / "ci/load-balancer-values.yaml"), {"clusterSecret": {"existingSecret": "kept"}}
    )
    older = values
    for path in NEW:
        assert at(DEFAULTS, path) is not None
        older = merged(older, nested(path, None))
    assert render(older).objects == render(values).objects


def test_a_key_is_required_unless_it_is_new() -> None:
    """Without it null would take a value away, and 0 or nothing would be rendered in its place."""

    def missing(schema: Object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        schema = resolve(schema)
        if schema.get("additionalProperties") is not False:
            return
        for key, each in schema["properties"].items():
            if key not in schema.get("required", ()):
                yield (*path, key)
            yield from missing(each, (*path, key))

    assert set(missing(SCHEMA, ())) == set(NEW)
