"""The pods of a release: what is read of one, and a watch that goes on whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.backends.kubernetes_api import Expired
from orchestrator.backends.kubernetes_pods import COMPONENT, Pod, PodTable, pod_of, selector
from orchestrator.backends.kubernetes_watch import BACKOFF_MAX_S, PodWatch, after
from orchestrator.membership import Role
from tandem.core.errors import LimitExceeded, Unavailable
from tests.kube.release import NAMESPACE, RELEASE, Release, release, until


def item(name: str, version: int, *, role: str = "encoder", uid: str = "u", **status: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": uid, "resourceVersion": str(version), "labels": {COMPONENT: role}}
    return {"metadata": meta, "status": status}


def test_what_is_read_of_a_pod() -> None:
    ready = {"type": "Ready", "status": "True"}
    running = {
        "name": "main",
        "restartCount": 2,
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
    }
    pod = pod_of(
        item(
            "d-encoder-3",
            7,
            podIP="10.1.2.3",
            phase="Running",
            conditions=[ready],
            containerStatuses=[running],
        )
    )
    assert pod == Pod(
        name="d-encoder-3", role=Role.ENCODER, uid="u", version=7, phase="Running", ip="10.1.2.3",
        is_ready=True, ending="OOMKilled: exit status 137", restarts=2,
    )  # fmt: skip
    assert pod.number == 3
    nowhere = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    pending = pod_of(item("d-encoder-0", 1, conditions=[nowhere]))
    assert pending is not None
    assert pending.trouble == "Unschedulable: no GPU"
    waiting = {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}}
    broken = pod_of(item("d-encoder-0", 1, containerStatuses=[waiting]))
    assert broken is not None
    assert broken.trouble == "ImagePullBackOff: no image"
    assert pod_of(item("d-orchestrator-0", 1, role="orchestrator")) is None
    assert pod_of(item("Not/a name", 1)) is None


def test_a_pod_of_a_pair_runs_a_service_of_each_role() -> None:
    """As the chart names them, with mode colocated."""
    pair, alone = pod_of(item("d-pair-2", 1, role="pair")), pod_of(item("d-encoder-0", 1))
    assert pair is not None
    assert alone is not None
    assert pair.role is None
    assert {each.name: each.role for each in pair.services} == {
        "d-pair-2-encoder": Role.ENCODER,
        "d-pair-2-reasoner": Role.REASONER,
    }
    assert [each.name for each in alone.services] == ["d-encoder-0"]
    table = PodTable()
    table.listed([item("d-pair-2", 1, role="pair")], 1)
    assert table.top(Role.ENCODER) is None, "pairs are not scaled by role"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["metadata", "status", "labels", "name", "conditions", "containerStatuses", "state",
                         "waiting", "resourceVersion", "restartCount", COMPONENT]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(
    st.dictionaries(st.sampled_from(["metadata", "status", "spec"]), junk),
    st.sampled_from(["ADDED", "DELETED", "?"]),
)
def test_nothing_that_a_server_says_breaks_the_table(value: dict[str, Any], kind: str) -> None:
    table = PodTable()
    table.listed([item("d-encoder-0", 5), value], 5)
    table.event(kind, value)
    assert [pod.name for pod in table.pods][:1] in (["d-encoder-0"], [])


def test_the_past_is_never_taken_for_the_present() -> None:
    table = PodTable()
    assert table.listed([item("d-encoder-0", 3), item("d-encoder-1", 4)], 10)
    assert not table.listed([], 9)
    assert len(table.pods) == 2
    assert table.event("DELETED", item("d-encoder-1", 8)) is None
    assert table.event("DELETED", item("d-encoder-1", 11, uid="another")) is not None
    assert table.find("d-encoder-1") is not None, "another pod of that name was deleted, and told late"
    assert table.event("DELETED", item("d-encoder-1", 12)) is not None
    assert table.find("d-encoder-1") is None
    assert table.event("BOOKMARK", item("", 20)) is None
    assert table.version == 20
    top = table.top(Role.ENCODER)
    assert top is not None
    assert top.name == "d-encoder-0"
    assert table.top(Role.REASONER) is None


def test_the_highest_pod_is_found_by_number() -> None:
    table = PodTable()
    table.listed([item(f"d-encoder-{n}", n + 1) for n in (2, 10, 9)], 20)
    top = table.top(Role.ENCODER)
    assert top is not None
    assert top.name == "d-encoder-10"


def test_what_follows_on_a_failure() -> None:
    assert after(Expired("gone"), 1, 1.0).wait_s == 0
    assert after(Expired("gone"), 1, 1.0).relist
    assert after(Expired("gone"), 4, 1.0).wait_s > 1, "a server that always says so is not hammered"
    waits = [after(Unavailable("down"), n, 1.0).wait_s for n in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_S
    assert not after(Unavailable("down"), 1, 0.0).relist
    assert after(LimitExceeded("slow down", retry_after_s=7.0), 1, 0.5).wait_s == 7.0


@asynccontextmanager
async def watching(found: Release) -> AsyncIterator[PodWatch]:
    watch = PodWatch(found.api, selector(RELEASE), lambda _: None, chance=lambda: 0.0)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def names(watch: PodWatch) -> list[str]:
    return [pod.name for pod in watch.table.pods]


FAULTS = {
    "none": {},
    "500 for every list and watch, twice": {"path": "/pods", "status": 500, "times": 2},
    "429 with a time to wait": {"path": "/pods", "status": 429, "retry_after_s": 1},
    "the connection breaks": {"path": "/pods", "drop": True, "times": 2},
    "a watch breaks after an event": {"path": "watch=", "drop_watch_after": 1, "times": 2},
    "a watch expires at once": {"path": "watch=", "expire_watch_after": 0, "times": 2},
    "a watch expires after an event": {"path": "watch=", "expire_watch_after": 1, "times": 2},
    "lists are of the past": {"path": "limit=", "stale_by": 4, "times": 2},
}


SLOW = {"429 with a time to wait", "500 for every list and watch, twice", "a watch expires at once"}


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in FAULTS]
)
async def test_the_table_follows_whatever_the_server_does(fault: str, tmp_path: Path) -> None:
    async with release(tmp_path) as found:
        found.install(encoders=1, reasoners=1)
        await until(lambda: len(found.names()) == 2)
        if FAULTS[fault]:
            found.kube.faults.add(**FAULTS[fault])
        async with watching(found) as watch:
            await until(lambda: len(names(watch)) == 2)
            found.set_replicas("encoder", 3)
            await until(lambda: names(watch) == found.names() and len(names(watch)) == 4)
            found.set_replicas("encoder", 1)
            await until(lambda: len(names(watch)) == 2)
            assert watch.is_current
            found.kube.faults.clear()


async def test_a_forgotten_past_is_listed_anew_and_never_goes_back(tmp_path: Path) -> None:
    """The watch breaks, its place is compacted away, and the first lists after that are of the past."""
    async with release(tmp_path) as found:
        found.install(encoders=2)
        await until(lambda: len(found.names()) == 3)
        found.kube.bookmark_s = 0.05
        async with watching(found) as watch:
            await until(lambda: len(names(watch)) == 3)
            seen: list[list[str]] = []
            found.kube.faults.add(path="watch=", drop_watch_after=0, times=3)
            found.kube.faults.add(path="limit=", stale_by=3, times=2)
            found.set_replicas("encoder", 3)
            await until(lambda: len(found.names()) == 4)
            found.kube.store.compact()
            while len(names(watch)) != 4:
                seen.append(names(watch))
                await asyncio.sleep(0.01)
            assert all(len(each) >= 3 for each in seen)
            lists = [
                each for each in found.kube.seen if each.path.endswith("/pods") and "watch" not in each.query
            ]
            assert lists[0].query.get("resourceVersion") is None
            assert all(each.query["resourceVersionMatch"] == "NotOlderThan" for each in lists[1:])


async def test_pods_of_others_are_not_ours(tmp_path: Path) -> None:
    async with release(tmp_path) as found:
        found.install()
        other = {
            "metadata": {"name": "stranger", "labels": {COMPONENT: "encoder"}},
            "spec": {"containers": []},
        }
        found.kube.store.create(found.pods, NAMESPACE, other)
        async with watching(found) as watch:
            await until(lambda: len(names(watch)) == 2)
            assert "stranger" in found.names()
            assert "stranger" not in names(watch)
