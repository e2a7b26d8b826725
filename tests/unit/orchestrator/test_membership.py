"""Leases, restarts, departures, and our own pauses."""

import pytest

from orchestrator.membership import FORGET_LOST_S, Identity, Membership, Role, Standing
from tandem.core.errors import AlreadyExists


def identity(name: str = "encoder-0", boot: str = "b1", role: Role = Role.ENCODER) -> Identity:
    return Identity(name=name, role=role, address="127.0.0.1:1", boot_id=boot, fingerprint="f")


def make() -> Membership:
    return Membership(lease_s=3.0, fresh_s=1.0)


def test_a_silent_service_is_lost_once_with_the_reason() -> None:
    members = make()
    members.hello(identity(), 0.0)
    for now in (1.0, 2.0, 3.0):
        assert members.look(now) == []
    [loss] = members.look(3.5)
    assert loss.identity.name == "encoder-0"
    assert loss.reason == "silent for 3.5 s, lease 3 s"
    assert members.look(4.0) == []
    assert members.members[0].standing is Standing.LOST


def test_a_service_that_was_lost_long_ago_is_forgotten() -> None:
    members = make()
    members.hello(identity(), 0.0)
    members.hello(identity("encoder-1"), 0.0)
    members.departed("encoder-0", "b1", "its attachment ended")
    now_s = 0.0
    while now_s <= FORGET_LOST_S:
        assert len(members.members) == 2
        now_s += 1.0
        members.heartbeat("encoder-1", "b1", now_s, 0, {})
        members.look(now_s)
    assert [member.identity.name for member in members.members] == ["encoder-1"]


def test_heartbeats_keep_it() -> None:
    members = make()
    members.hello(identity(), 0.0)
    for now in range(1, 20):
        members.heartbeat("encoder-0", "b1", float(now), 2, {"lane": "shm"})
        assert members.look(float(now)) == []
    assert members.members[0].streams == 2


def test_time_in_which_nobody_looked_counts_against_nobody() -> None:
    members = make()
    members.hello(identity(), 0.0)
    members.look(0.5)
    assert members.look(100.0) == []
    for now in (101.0, 102.0, 103.0):
        losses = members.look(now)
    assert len(losses) == 1


def test_a_lost_service_is_not_revived_by_a_late_heartbeat_but_by_a_hello() -> None:
    members = make()
    members.hello(identity(), 0.0)
    members.departed("encoder-0", "b1", "gone")
    members.heartbeat("encoder-0", "b1", 1.0, 0, {})
    assert not members.members[0].is_live
    members.hello(identity(), 2.0)
    assert members.members[0].is_ready
    assert members.members[0].restarts == 0


def test_a_restart_loses_its_former_self_and_is_counted() -> None:
    members = make()
    members.hello(identity(boot="b1"), 0.0)
    loss = members.hello(identity(boot="b2"), 2.0)
    assert loss is not None
    assert loss.identity.boot_id == "b1"
    assert members.members[0].restarts == 1
    assert members.departed("encoder-0", "b1", "late") is None
    assert members.members[0].is_ready


def test_two_processes_cannot_take_turns_under_one_name() -> None:
    members = make()
    members.hello(identity(boot="b1"), 0.0)
    with pytest.raises(AlreadyExists, match="boot b1"):
        members.hello(identity(boot="b2"), 0.5)
    assert members.members[0].identity.boot_id == "b1"


def test_a_draining_service_is_live_and_not_ready() -> None:
    members = make()
    members.hello(identity(), 0.0)
    members.drain("encoder-0")
    assert members.members[0].is_live
    assert not members.members[0].is_ready
