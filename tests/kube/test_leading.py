"""Who leads: one at a time, with a term above all before, whatever happens to the API and to clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.kubernetes_leader import Leader
from orchestrator.backends.kubernetes_lease import Candidate, Do, Held, held_from, lease_of, next_term
from orchestrator.fence import Fence, boot_clock
from tandem.core.errors import NotLeader
from tests.kube.release import NAMESPACE, Release, release, until

LEASE_S = 1.0


def held(holder: str, version: str, *, term: int = 5, duration_s: float = 10.0) -> Held:
    return Held(holder=holder, term=term, address="", duration_s=duration_s, version=version, transitions=1)


def test_a_candidate_waits_by_its_own_clock() -> None:
    me = Candidate("pod-b/1", 10.0)
    assert me.decide(None, 0.0).do is Do.CREATE
    assert me.decide(held("pod-a/1", "7"), 100.0).do is Do.WAIT
    assert me.decide(held("pod-a/1", "7"), 109.9).do is Do.WAIT
    assert me.decide(held("pod-a/1", "8"), 110.1).do is Do.WAIT, "it was renewed"
    assert me.decide(held("pod-a/1", "8"), 120.0).do is Do.WAIT
    assert me.decide(held("pod-a/1", "8"), 120.2).do is Do.TAKE
    assert me.decide(held("", "9"), 121.0).do is Do.TAKE
    assert me.decide(held("pod-b/1", "10"), 121.0).do is Do.RENEW
    assert me.decide(held("pod-b/0", "11"), 121.0).do is Do.TAKE, "a former start of this very pod"


def test_a_longer_lease_of_the_holder_counts() -> None:
    me = Candidate("pod-b/1", 2.0)
    me.decide(held("pod-a/1", "7", duration_s=30.0), 0.0)
    assert me.decide(held("pod-a/1", "7", duration_s=30.0), 29.0).do is Do.WAIT
    assert me.decide(held("pod-a/1", "7", duration_s=30.0), 31.0).do is Do.TAKE


def test_terms_rise_also_when_the_lease_was_deleted() -> None:
    assert next_term(held("a/1", "1", term=2_000_000_000_000), 1_700_000_000.0) == 2_000_000_000_001
    assert next_term(None, 1_700_000_000.5) == 1_700_000_000_500
    assert next_term(held("a/1", "1", term=0), 1_700_000_000.0) == 1_700_000_000_000


def test_what_is_written_is_read_back() -> None:
    first = lease_of("l", "a/1", 9, "10.0.0.1:7420", 10.0, 1_700_000_000.0, None)
    first["metadata"]["resourceVersion"] = "3"
    assert held_from(first) == Held(
        holder="a/1", term=9, address="10.0.0.1:7420", duration_s=10.0, version="3", transitions=1
    )
    renewed = lease_of("l", "a/1", 9, "10.0.0.1:7420", 10.0, 1_700_000_002.0, first)
    assert held_from(renewed).transitions == 1
    assert renewed["spec"]["acquireTime"] == first["spec"]["acquireTime"]
    assert held_from(lease_of("l", "b/1", 10, "", 10.0, 1_700_000_003.0, renewed)).transitions == 2
    nobody = held_from({"metadata": [], "spec": {"holderIdentity": 7, "leaseDurationSeconds": "x"}})
    assert (nobody.holder, nobody.term, nobody.duration_s) == ("", 0, 0.0)


class Clock:
    """The real one, which a test may set forward, or hold as a stopped process would."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return boot_clock() + self.ahead_s


class Standing:
    """One candidate at work."""

    def __init__(self, found: Release, name: str, *, alone: bool = False) -> None:
        self.clock = Clock()
        self.fence = Fence(elected=True, clock=self.clock)
        self.terms: list[int] = []
        self.leader = Leader(
            found.api, self.fence, lease="demo-orchestrator", identity=name,
            address=f"{name.partition('/')[0]}:7420", lease_s=LEASE_S, clock=self.clock, alone=alone,
        )  # fmt: skip
        self.task = asyncio.create_task(self.leader.run(self.terms.append))

    async def freeze(self) -> None:
        """Stop all that it does, as SIGSTOP would; its clock goes on."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def standing(found: Release, *names: str) -> AsyncIterator[list[Standing]]:
    candidates = [Standing(found, name) for name in names]
    try:
        yield candidates
    finally:
        for each in candidates:
            await each.freeze()


def leading(candidates: list[Standing]) -> list[Standing]:
    return [each for each in candidates if each.fence.leads]


@asynccontextmanager
async def release_with_lease(folder: Path) -> AsyncIterator[Release]:
    async with release(folder) as found:
        found.free_lease()
        yield found


async def test_one_of_three_leads_and_the_others_know_who(tmp_path: Path) -> None:
    async with release_with_lease(tmp_path) as found, standing(found, "a/1", "b/1", "c/1") as candidates:
        await until(lambda: len(leading(candidates)) == 1)
        (first,) = leading(candidates)
        others = [each for each in candidates if each is not first]
        await until(lambda: all(each.fence.leader for each in others))
        for other in others:
            with pytest.raises(NotLeader, match="stands by") as raised:
                other.fence.check()
            assert raised.value.leader == f"{'abc'[candidates.index(first)]}:7420"
        await asyncio.sleep(1.5 * LEASE_S)  # it is renewed
        assert leading(candidates) == [first]
        await first.leader.resign()
        await first.freeze()
        await until(lambda: bool(leading(others)), LEASE_S)
        (second,) = leading(others)
        assert second.terms[0] > first.terms[0]
        assert not first.fence.leads


async def test_a_frozen_leader_is_replaced_and_knows_it_when_it_wakes(tmp_path: Path) -> None:
    async with release_with_lease(tmp_path) as found, standing(found, "a/1") as (first,):
        await until(lambda: first.fence.leads)
        await first.freeze()
        async with standing(found, "b/1") as (second,):
            await until(lambda: second.fence.leads)
            assert not first.fence.leads, "by its own clock the lead was over before another could have it"
            with pytest.raises(NotLeader):
                first.fence.check()
            woken = asyncio.create_task(first.leader.run(first.terms.append))
            async with asyncio.timeout(5):
                assert "the lead was lost: b/1 leads" in await woken
            assert second.fence.leads
            assert first.fence.leader == "b:7420"


FAULTS: dict[str, dict[str, Any]] = {
    "the API is down": {"path": "/leases", "status": 500},
    "the API is slow": {"path": "/leases", "delay_s": 3.0},
    "the API asks to wait": {"path": "/leases", "status": 429, "retry_after_s": 1},
    "somebody writes it all the time": {"path": "/leases", "method": "PUT", "status": 409},
    "connections break": {"path": "/leases", "drop": True},
}


QUICK = {"the API is slow", "somebody writes it all the time"}


@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAULTS],
)
async def test_a_leader_without_the_api_stops_in_time(fault: str, tmp_path: Path) -> None:
    async with release_with_lease(tmp_path) as found, standing(found, "a/1") as (first,):
        await until(lambda: first.fence.leads)
        began_s = boot_clock()
        found.kube.faults.add(**FAULTS[fault], times=-1)
        async with asyncio.timeout(5):
            assert "was not renewed" in await first.task
        assert not first.fence.leads
        # Before anybody else may lead: that takes a whole lease from its last renewal.
        assert boot_clock() - began_s < 2 * LEASE_S


async def test_one_alone_leads_on_without_the_api_and_gives_way_when_it_answers(tmp_path: Path) -> None:
    """The upgrade of a control plane must not end every stream of a release with one orchestrator."""
    async with release_with_lease(tmp_path) as found:
        only = Standing(found, "a/1", alone=True)
        try:
            await until(lambda: only.fence.leads)
            term = only.fence.term
            fault = found.kube.faults.add(path="/leases", status=500, times=-1)
            for _ in range(round(2 * LEASE_S / 0.02)):
                assert only.fence.leads
                await asyncio.sleep(0.02)
            fault.times = 0
            before = found.kube.store.get(found.leases, NAMESPACE, "demo-orchestrator")["spec"]["renewTime"]
            await until(
                lambda: (
                    found.kube.store.get(found.leases, NAMESPACE, "demo-orchestrator")["spec"]["renewTime"]
                    != before
                )
            )
            assert (only.fence.leads, only.fence.term, only.terms) == (True, term, [term])
            found.kube.store.edit(
                found.leases, NAMESPACE, "demo-orchestrator",
                lambda item: item["spec"].update(holderIdentity="b/1"),
            )  # fmt: skip
            async with asyncio.timeout(5):
                assert "the lead was lost: b/1 leads" in await only.task
            assert not only.fence.leads
        finally:
            await only.freeze()


async def test_a_reply_that_was_lost_is_no_second_leader(tmp_path: Path) -> None:
    """The write of the Lease arrives and its answer does not: the next look finds it, under the same term."""
    async with release(tmp_path) as found:
        body = lease_of("demo-orchestrator", "a/1", 77, "a:7420", LEASE_S, 1_700_000_000.0, None)
        found.kube.store.create(found.leases, NAMESPACE, body)
        async with standing(found, "a/1", "b/1") as (first, second):
            await until(lambda: first.fence.leads)
            assert first.terms == [77]
            assert not second.fence.leads


async def test_who_deletes_the_lease_makes_no_two_leaders(tmp_path: Path) -> None:
    async with release(tmp_path) as found, standing(found, "a/1", "b/1") as candidates:
        await until(lambda: len(leading(candidates)) == 1)
        (first,) = leading(candidates)
        found.kube.store.delete(found.leases, NAMESPACE, "demo-orchestrator")
        (second,) = (each for each in candidates if each is not first)

        def goes_over() -> bool:
            assert len(leading(candidates)) <= 1
            return leading(candidates) == [second]

        await until(goes_over)
        assert second.terms[0] > first.terms[0]
