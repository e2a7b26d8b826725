"""Features of the chart that meet: each two of them in one release, and what has to hold in every one."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.chart.rendering import RELEASE, Object, Rendered, merged, render
from tests.chart.test_command_lines import takes
from tests.chart.test_network_policies import EVERYWHERE, PAIRED, reached

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
CERT_MANAGER = {"mode": "certManager", "certManager": {"issuerRef": {"name": "platform"}}}
SECRETS = {
    "orchestrator": "door-tls",
    "encoder": "encoder-tls",
    "reasoner": "reasoner-tls",
    "client": "c-tls",
}
TOKENS = {"existingSecret": "video-tokens", "testSecret": "video-test-token"}
SCRAPED = {"metrics": {"scrape": "podMonitor"}, "networkPolicy": {"metrics": {"from": [MONITORING]}}}
KEDA = {"mode": "keda", "keda": {"prometheus": "http://prometheus.monitoring:9090"}}

FEATURES: dict[str, dict[str, Object]] = {
    "tls": {
        "none": {"insecure": True},
        "made": {"tls": CERT_MANAGER},
        "given": {"tls": {"mode": "existingSecret", "existingSecrets": SECRETS}},
        "one-sided": {"tls": {**CERT_MANAGER, "clientCertificates": False}, "tokens": TOKENS},
    },
    "tokens": {"none": {}, "given": {"tokens": TOKENS}},
    "mode": {"separate": {}, "colocated": {"mode": "colocated"}},
    "scaling": {
        "none": {},
        "orchestrator": {"reasoner": {"autoscaling": {"mode": "orchestrator"}}},
        "hpa": {"reasoner": {"autoscaling": {"mode": "hpa"}}, **SCRAPED},
        "keda": {"reasoner": {"autoscaling": KEDA}, **SCRAPED},
    },
    "policy": {"on": {}, "off": {"networkPolicy": {"enabled": False}}},
    "orchestrators": {
        "one": {},
        "three": {"orchestrator": {"replicas": 3, "journal": {"mode": "persistent"}}},
    },
    "disk": {
        mode: {"reasoner": {"disk": {"mode": mode, "size": "10Gi"}}}
        for mode in ("none", "emptyDir", "persistent")
    },
    "family": {"4": {}, "6": {"network": {"ipFamily": "IPv6"}}},
    "model": {
        "small": {},
        "hub": {
            "model": {
                "name": "acme/large", "revision": "a" * 40, "cache": {"mode": "persistent"},
                "hubToken": {"existingSecret": "hub"},
            },
            "networkPolicy": {"extraEgress": [{"ports": [{"protocol": "TCP", "port": 443}]}]},
        },
    },
}  # fmt: skip


def pairs_of(choice: tuple[str, ...]) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations(zip(FEATURES, choice, strict=True), 2))


def combinations() -> list[tuple[str, ...]]:
    """As few as are found at once, so that each two features meet in one of them."""
    every = list(itertools.product(*FEATURES.values()))
    missing = {pair for choice in every for pair in pairs_of(choice)}
    found = []
    while missing:
        best = max(every, key=lambda choice: len(pairs_of(choice) & missing))
        missing -= pairs_of(best)
        found.append(best)
    return found


def values_of(choice: tuple[str, ...]) -> Object:
    values: Object = {}
    for feature, name in zip(FEATURES, choice, strict=True):
        values = merged(values, FEATURES[feature][name])
    if values.get("mode") != "colocated" and "autoscaling" in values.get("reasoner", {}):
        values = merged(values, {"encoder": {"autoscaling": values["reasoner"]["autoscaling"]}})
    return values


@pytest.mark.parametrize("choice", combinations(), ids="-".join)
def test_two_features_go_together(
    choice: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(choice)
    rendered = render(values)
    for pod, _, spec in rendered.pods():
        for each in spec["containers"]:
            takes(f"{pod}-{each['name']}", each, tmp_path, monkeypatch)
    files_are_mounted(rendered)
    certificates_name_what_is_dialled(rendered)
    if values.get("networkPolicy", {}).get("enabled", True):
        present = {labels["app.kubernetes.io/component"] for _, labels, _ in rendered.pods()}
        wanted = PAIRED if "pair" in present else EVERYWHERE
        assert reached(rendered) == {each for each in wanted if {each[0], each[1]} <= present}


def files_are_mounted(rendered: Rendered) -> None:
    """What a command line or an environment names lies in a volume, under a name that is in it."""
    claims = {
        claim["metadata"]["name"]
        for each in rendered.of("StatefulSet")
        for claim in each["spec"].get("volumeClaimTemplates", [])
    }
    for pod, _, spec in rendered.pods():
        volumes = {each["name"]: each for each in spec["volumes"]}
        for container in spec["containers"]:
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            words = [*container["args"], *(f"={each.get('value', '')}" for each in container["env"])]
            for path in re.findall(r"=(/[a-z]\S*)", "\n".join(words)):
                inside = [place for place in mounts if path == place or path.startswith(f"{place}/")]
                assert inside, f"{pod}: {path}"
                name = mounts[max(inside, key=len)]
                items = volumes.get(name, {}).get("secret", {}).get("items", [])
                assert not items or path.rpartition("/")[2] in {each["path"] for each in items}, path
                assert name in volumes or name in claims


def certificates_name_what_is_dialled(rendered: Rendered) -> None:
    """A name that is advertised is one of whoever advertises it; without TLS it is an address."""
    names = {each["metadata"]["name"]: each["spec"]["dnsNames"] for each in rendered.of("Certificate")}
    for _, _, spec in rendered.pods():
        for container in spec["containers"]:
            has_tls = any(word.startswith("--tls-cert=") for word in container["args"])
            told = [word.partition("=")[2] for word in container["args"] if word.startswith("--advertise=")]
            assert all(("$(POD_NAME)" in each) == has_tls for each in told)
            for each in told if names else ():
                host = each.rpartition(":")[0].replace("$(POD_NAME)", "any-0")
                wildcard = "*." + host.partition(".")[2]
                assert wildcard in names[f"{RELEASE}-{container['name']}"], host
            doors = [word for word in container["args"] if re.match("--(orchestrator|address)=", word)]
            for each in doors if names else ():
                assert each.partition("=")[2].rpartition(":")[0] in names[f"{RELEASE}-orchestrator"]
