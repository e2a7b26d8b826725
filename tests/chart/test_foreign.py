"""Objects of other projects, held against what their definitions say of the fields that the chart uses."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from tests.chart.rendering import CI_FILES, Object, render_file
from tests.chart.test_schemas import FOREIGN


def closed(required: str, **properties: Any) -> Object:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "array", "minItems": 1, "items": TEXT}
MAP = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
SELECTOR = closed("matchLabels", matchLabels=MAP)
ENDPOINTS = {"type": "array", "minItems": 1, "items": closed("port interval", port=TEXT, interval=DURATION)}
RULE = {
    "alert": {**TEXT, "pattern": "^[A-Za-z]+$"},
    "expr": TEXT,
    "for": DURATION,
    "labels": MAP,
    "annotations": MAP,
}
POLICY = closed(
    "type value periodSeconds", type={"enum": ["Percent", "Pods"]}, value=COUNT, periodSeconds=COUNT
)
SCALE = closed(
    "policies", stabilizationWindowSeconds={"type": "integer", "maximum": 3600}, policies={"items": POLICY}
)
MATCH = closed("method", method=closed("service", type={"enum": ["Exact"]}, service=TEXT, method=TEXT))
SPECS = {
    ("cert-manager.io/v1", "Certificate"): closed(
        "secretName issuerRef dnsNames",
        secretName=TEXT,
        duration=DURATION,
        renewBefore=DURATION,
        privateKey=closed(
            "algorithm",
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"enum": [256, 384, 521]},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
        usages={"type": "array", "items": {"enum": ["server auth", "client auth", "digital signature"]}},
        issuerRef=closed("name", name=TEXT, kind=TEXT, group=TEXT),
        dnsNames=TEXTS,
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        "selector podMetricsEndpoints", selector=SELECTOR, podMetricsEndpoints=ENDPOINTS
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        "selector endpoints", selector=SELECTOR, endpoints=ENDPOINTS
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        "groups",
        groups={
            "type": "array",
            "items": closed("name rules", name=TEXT, rules={"items": closed("alert expr", **RULE)}),
        },
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        "scaleTargetRef triggers",
        scaleTargetRef=closed("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        advanced=closed(
            "horizontalPodAutoscalerConfig",
            horizontalPodAutoscalerConfig=closed(
                "behavior", behavior=closed("scaleUp scaleDown", scaleUp=SCALE, scaleDown=SCALE)
            ),
        ),
        triggers={
            "type": "array",
            "items": closed(
                "type metadata",
                type={"const": "prometheus"},
                metadata=closed(
                    "serverAddress query threshold ignoreNullValues",
                    serverAddress=TEXT,
                    query=TEXT,
                    threshold=TEXT,
                    ignoreNullValues={"const": "false"},  # by default what is not known counts as 0
                ),
            ),
        },
    ),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): closed(
        "parentRefs rules",
        parentRefs={
            "type": "array",
            "minItems": 1,
            "items": closed("name", name=TEXT, namespace=TEXT, sectionName=TEXT),
        },
        hostnames=TEXTS,
        rules={
            "type": "array",
            "items": closed(
                "backendRefs",
                matches={"items": MATCH},
                backendRefs={"items": closed("name port", name=TEXT, port=COUNT)},
            ),
        },
    ),
}


def objects() -> list[Object]:
    """Each that is not Kubernetes' own, once."""
    found = {
        json.dumps(each, sort_keys=True): each
        for path in CI_FILES
        for each in render_file(path).objects
        if each["apiVersion"].startswith(FOREIGN)
    }
    return list(found.values())


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind[1])
def test_it_has_the_fields_that_its_definition_names(kind: tuple[str, str]) -> None:
    own = [each for each in objects() if (each["apiVersion"], each["kind"]) == kind]
    assert own
    for each in own:
        jsonschema.validate(each["spec"], SPECS[kind])
        broken = copy.deepcopy(each["spec"])
        broken["no such field"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SPECS[kind])


def test_no_other_kind_is_rendered() -> None:
    assert {(each["apiVersion"], each["kind"]) for each in objects()} == set(SPECS)


def test_certificates_are_for_the_names_that_are_called() -> None:
    """Every address that one role gives for itself, or is told of another, is in that role's certificate."""
    for name in ("secure", "colocated-secure", "load-balancer", "tokens"):
        rendered = render_file(next(path for path in CI_FILES if path.stem == f"{name}-values"))
        names = {
            each["metadata"]["name"].rpartition("-")[2]: each["spec"]["dnsNames"]
            for each in rendered.of("Certificate")
        }
        for pod, _, spec in rendered.pods():
            for container in spec["containers"]:
                words = dict(word.split("=", 1) for word in container["args"] if "=" in word)
                if "--advertise" in words:
                    host = words["--advertise"].rpartition(":")[0].replace("$(POD_NAME)", f"{pod}-0")
                    assert _covers(names[container["name"]], host), host
                for option in ("--orchestrator", "--address"):
                    if option in words:
                        assert _covers(names["orchestrator"], words[option].rpartition(":")[0])
                folders = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
                role = {"watch": "client"}.get(container["name"], container["name"])
                assert folders[f"{role}-tls"] == "/etc/tandem/tls"
                (volume,) = (v for v in spec["volumes"] if v["name"] == f"{role}-tls")
                (secret,) = (
                    each["spec"]["secretName"]
                    for each in rendered.of("Certificate")
                    if each["metadata"]["name"] == f"video-{role}"
                )
                assert volume["secret"]["secretName"] == secret


def _covers(names: list[str], host: str) -> bool:
    """As TLS does it: a star stands for one label."""
    wild = "*." + host.partition(".")[2]
    return host in names or wild in names
