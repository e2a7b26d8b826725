"""Who may speak to whom: every port that somebody calls is admitted at both ends, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.rendering import (
    CI_FILES,
    RELEASE,
    Object,
    Rendered,
    defaults,
    merged,
    read,
    render,
    render_file,
)

GUARDED = [path for path in CI_FILES if read(path).get("networkPolicy", {}).get("enabled", True)]
LANE = 40_000
"""One of the ports that the kernel gives to lanes."""
EVERYWHERE = {
    ("orchestrator", "orchestrator", 7420),
    ("orchestrator", "encoder", 7431),
    ("orchestrator", "reasoner", 7432),
    ("encoder", "orchestrator", 7420),
    ("reasoner", "orchestrator", 7420),
    ("encoder", "reasoner", 7432),
    ("reasoner", "reasoner", 7432),
    ("encoder", "reasoner", LANE),
    ("reasoner", "encoder", LANE),
    ("reasoner", "reasoner", LANE),
    ("test", "orchestrator", 7420),
}
"""Caller, called and port of everything that the roles need of each other."""
PAIRED = {
    ("orchestrator", "orchestrator", 7420),
    ("orchestrator", "pair", 7431),
    ("orchestrator", "pair", 7432),
    ("pair", "orchestrator", 7420),
    ("pair", "pair", 7432),
    ("pair", "pair", LANE),
    ("test", "orchestrator", 7420),
}
PORTS = (7420, 7431, 7432, 7440, 7441, LANE, 22, 1024)


def rules(rendered: Rendered, labels: Object, direction: str) -> Iterator[Object]:
    """All rules of a direction that count for a pod."""
    for each in rendered.of("NetworkPolicy"):
        selector = each["spec"]["podSelector"]["matchLabels"]
        if selector.items() <= labels.items():
            yield from each["spec"].get(direction, [])


def admits(rule: Object, side: str, labels: Object, port: int) -> bool:
    """Whether a rule admits a pod of this release and namespace at a port."""
    ports = [(each["port"], each.get("endPort", each["port"])) for each in rule.get("ports", [])]
    if ports and not any(low <= port <= high for low, high in ports):
        return False
    peers = rule.get(side)
    return peers is None or any(
        "podSelector" in peer
        and "namespaceSelector" not in peer
        and peer["podSelector"].get("matchLabels", {}).items() <= labels.items()
        for peer in peers
    )


def reached(rendered: Rendered, ports: tuple[int, ...] = PORTS) -> set[tuple[str, str, int]]:
    pods = {labels["app.kubernetes.io/component"]: labels for _, labels, _ in rendered.pods()}
    return {
        (caller, called, port)
        for caller, from_labels in pods.items()
        for called, to_labels in pods.items()
        for port in ports
        if any(admits(rule, "to", to_labels, port) for rule in rules(rendered, from_labels, "egress"))
        and any(admits(rule, "from", from_labels, port) for rule in rules(rendered, to_labels, "ingress"))
    }


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: path.stem)
def test_roles_reach_what_they_need_and_nothing_else(path: Path) -> None:
    rendered = render_file(path)
    wanted = PAIRED if read(path).get("mode") == "colocated" else EVERYWHERE
    present = {labels["app.kubernetes.io/component"] for _, labels, _ in rendered.pods()}
    assert reached(rendered) == {each for each in wanted if {each[0], each[1]} <= present}


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: path.stem)
def test_all_is_denied_first(path: Path) -> None:
    deny = render_file(path).named("NetworkPolicy", f"{RELEASE}-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    assert deny["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "tandem",
        "app.kubernetes.io/instance": RELEASE,
    }


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: path.stem)
def test_every_port_of_a_container_is_meant(path: Path) -> None:
    """Each is admitted to somebody, but for health: kubelets need no rule, and nobody else should."""
    rendered = render_file(path)
    for _, labels, spec in rendered.pods():
        for port in (port for each in spec["containers"] for port in each.get("ports", [])):
            number = port["containerPort"]
            admitted = [
                rule
                for rule in rules(rendered, labels, "ingress")
                if any(p["port"] <= number <= p.get("endPort", p["port"]) for p in rule["ports"])
            ]
            assert bool(admitted) != port["name"].startswith("health"), port
            assert all(rule.get("from") for rule in admitted)


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: path.stem)
def test_whoever_scrapes_is_let_in(path: Path) -> None:
    """By more than the release itself, which has no Prometheus."""
    rendered = render_file(path)
    if read(path).get("metrics", {}).get("scrape", "none") == "none":
        return
    for _, labels, spec in rendered.pods():
        for port in (port for each in spec["containers"] for port in each.get("ports", [])):
            if not port["name"].startswith("metrics"):
                continue
            peers = [
                peer
                for rule in rules(rendered, labels, "ingress")
                if any(each["port"] == port["containerPort"] for each in rule["ports"])
                for peer in rule["from"]
            ]
            assert {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
            } in peers


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: path.stem)
def test_addresses_that_a_policy_admits_are_those_that_pods_see(path: Path) -> None:
    """A load balancer's connection has a node's address unless it stays on the node that it came to."""
    (door,) = (
        each
        for each in render_file(path).of("Service")
        if each["metadata"]["name"] == f"{RELEASE}-orchestrator"
    )
    is_outside = door["spec"]["type"] != "ClusterIP"
    assert door["spec"].get("externalTrafficPolicy") == ("Local" if is_outside else None)


def test_name_servers_may_have_other_ports() -> None:
    openshift = render(merged(defaults(), {"networkPolicy": {"dns": {"ports": [53, 5353]}}}))
    everybody = openshift.named("NetworkPolicy", f"{RELEASE}-all")["spec"]["egress"][0]
    assert {(each["protocol"], each["port"]) for each in everybody["ports"]} == {
        (protocol, port) for protocol in ("TCP", "UDP") for port in (53, 5353)
    }


def test_without_metrics_nobody_is_let_in_to_scrape() -> None:
    default = render_file(next(path for path in CI_FILES if path.stem == "default-values"))
    for _, labels, _ in default.pods():
        ports = [port["port"] for rule in rules(default, labels, "ingress") for port in rule["ports"]]
        assert 9400 not in ports


def test_the_api_is_for_the_orchestrator_alone() -> None:
    secure = render_file(next(path for path in CI_FILES if path.stem == "secure-values"))
    for name, labels, _ in secure.pods():
        to_api = [
            rule
            for rule in rules(secure, labels, "egress")
            if {"ipBlock": {"cidr": "10.96.0.1/32"}} in rule.get("to", [])
        ]
        assert bool(to_api) == (name == f"{RELEASE}-orchestrator")
        assert all(rule.get("to") for rule in rules(secure, labels, "egress"))
