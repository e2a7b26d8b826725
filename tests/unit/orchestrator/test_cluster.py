"""The services of an orchestrator: what their pairs are called."""

from __future__ import annotations

import time

import pytest

from orchestrator.backends.kubernetes_pods import names
from orchestrator.cluster import Cluster
from orchestrator.membership import Identity, Role
from orchestrator.placement import Placed
from tandem.core.tickets import Ticket, verify_ticket

SECRET = b"s" * 32


def identity(name: str, role: Role) -> Identity:
    return Identity(name=name, role=role, address="10.0.0.1:1", boot_id="b", fingerprint="f")


@pytest.mark.parametrize("release", ["video", "tandem-production-cameras", "x" * 39])
def test_every_pair_of_a_release_has_a_name_of_its_own(release: str) -> None:
    """A reasoner ends the link of a pair when another of that name comes: encoders must not share one."""
    cluster = Cluster(SECRET, 3.0, 1.0, time.monotonic)

    def ticket(encoder: str, reasoner: str) -> Ticket:
        placed = Placed(identity(encoder, Role.ENCODER), identity(reasoner, Role.REASONER), "")
        return verify_ticket(SECRET, cluster.ticket(placed), time.time())

    found = {
        ticket(encoder.name, reasoner.name).pair_id
        for encoder in names(release, Role.ENCODER, 12)
        for reasoner in names(release, Role.REASONER, 12)
    }
    assert len(found) == 144
    pairs = [(f"{release}-pair-{n}-encoder", f"{release}-pair-{m}-reasoner") for n in (0, 1) for m in (0, 1)]
    assert len({ticket(*pair).pair_id for pair in pairs}) == 4
    first = pairs[0]
    assert ticket(*first).pair_id == ticket(*first).pair_id
    assert ticket(*first).epoch < ticket(*first).epoch
