"""The number of pods, changed at a (fake) API: as decided, and not on top of what others changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.autoscaling import Bounds, Pace
from orchestrator.backends.kubernetes_pods import PodTable, selector
from orchestrator.backends.kubernetes_scaling import Scaler
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.cluster import Cluster
from orchestrator.membership import Identity, Role, Standing
from orchestrator.scaling_needs import Seen, Top
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.kube.release import NAMESPACE, RELEASE, Release, release, until, workload

DOWN_S = Pace().down_s


class Bench:
    """A scaler with a clock of its own, and what streams say as the test wants it."""

    def __init__(self, found: Release, *, pairs: bool = False, **bounds: Bounds) -> None:
        self.found, self.now_s = found, 1000.0
        self.says: dict[Role, dict[str, Any]] = {role: {"load": 0.1} for role in Role}
        self.streams: dict[str, int] = {}
        settings = KubernetesSettings(
            release=RELEASE, namespace="default", pod="o-0", autoscale=True, pairs=pairs, **bounds
        )
        self.cluster = Cluster(b"a secret that is long enough", 3.0, 1.0, lambda: self.now_s)
        self.scaler = Scaler(found.api, settings, self.cluster, self.look, lambda: self.now_s)

    def look(self, role: Role, replicas: int | None, top: str) -> Seen:
        says = {"ready": replicas or 0, **self.says[role]}
        is_ready = any(m.identity.name == top and m.is_ready for m in self.cluster.members)
        pod = Top(name=top, is_ready=is_ready, streams=self.streams.get(top, 0)) if top else None
        return Seen(role=role, replicas=replicas, top=pod, **says)

    async def pass_s(self, seconds: float) -> None:
        """Time goes by, with a look every five seconds, or every two minutes where it is long."""
        until_s, step_s = self.now_s + seconds, 5 if seconds < 200 else 120
        while self.now_s < until_s:
            self.now_s = min(self.now_s + step_s, until_s)
            items, version = await self.found.api.list_pods(selector(RELEASE))
            table = PodTable()
            table.listed(items, int(version))
            await self.scaler.look(table, is_current=True)

    def attach(self, name: str, role: Role) -> None:
        who = Identity(name=name, role=role, address="127.0.0.1:9", boot_id="b", fingerprint="f")
        self.cluster.attach(who, types_pb2.BuildInfo(), types_pb2.ModelInfo())

    def standing(self, name: str) -> Standing:
        return next(m.standing for m in self.cluster.members if m.identity.name == name)


@asynccontextmanager
async def bench(folder: Path, *, pairs: bool = False, **bounds: Bounds) -> AsyncIterator[Bench]:
    async with release(folder) as found:
        if pairs:
            found.kube.store.create(found.sets, NAMESPACE, workload("pair"))
        else:
            found.install(encoders=1, reasoners=1)
        await until(lambda: len(found.names()) == (1 if pairs else 2))
        made = Bench(found, pairs=pairs, **bounds)
        try:
            yield made
        finally:
            await made.cluster.close()


async def test_up_for_load_and_down_by_way_of_an_empty_pod(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.says[Role.ENCODER] = {"load": 2.0}
        await it.pass_s(20)
        assert (it.found.replicas("encoder"), it.found.replicas("reasoner")) == (3, 1)
        await until(lambda: f"{RELEASE}-encoder-2" in it.found.names())
        for number in range(3):
            it.attach(f"{RELEASE}-encoder-{number}", Role.ENCODER)
        it.says[Role.ENCODER] = {"load": 0.9}
        it.streams[f"{RELEASE}-encoder-2"] = 2
        await it.pass_s(DOWN_S + 130)
        assert it.standing(f"{RELEASE}-encoder-2") is Standing.DRAINING
        assert it.standing(f"{RELEASE}-encoder-1") is Standing.READY
        assert it.found.replicas("encoder") == 3, "it is not empty yet"
        it.streams.clear()
        await it.pass_s(5)
        assert it.found.replicas("encoder") == 2
        await until(lambda: it.found.controllers.removed == [f"{RELEASE}-encoder-2"])
        last = it.scaler.told[Role.ENCODER].last
        assert last is not None
        assert "nothing is on it any more" in last.reason
        assert it.scaler.counts["encoder", "down"] == 1


async def test_a_drained_pod_that_is_needed_again_takes_streams(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.found.set_replicas("encoder", 2)
        await until(lambda: len(it.found.names()) == 3)
        for number in range(2):
            it.attach(f"{RELEASE}-encoder-{number}", Role.ENCODER)
        it.streams[f"{RELEASE}-encoder-1"] = 1
        await it.pass_s(DOWN_S + 130)
        assert it.standing(f"{RELEASE}-encoder-1") is Standing.DRAINING
        it.says[Role.ENCODER] = {"load": 1.2}
        await it.pass_s(5)
        assert it.standing(f"{RELEASE}-encoder-1") is Standing.READY
        assert it.found.replicas("encoder") == 2


async def test_without_the_api_nothing_is_changed(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.found.set_replicas("encoder", 3)
        await until(lambda: len(it.found.names()) == 4)
        fault = it.found.kube.faults.add(path="/scale", status=500, times=-1)
        await it.pass_s(DOWN_S + 100)
        assert it.found.replicas("encoder") == 3
        holds = it.scaler.told[Role.ENCODER].holds
        assert holds is not None
        assert "not known" in holds.reason
        fault.times = 0
        await it.pass_s(DOWN_S - 60)
        assert it.found.replicas("encoder") == 3, "the time in which nothing was known does not count"
        await it.pass_s(190)
        assert it.found.replicas("encoder") == 2


async def test_who_was_slower_is_told_and_decides_anew(tmp_path: Path) -> None:
    async with bench(tmp_path, encoders=Bounds(least=1, most=4)) as it:
        it.says[Role.ENCODER] = {"load": 2.0}
        await it.pass_s(10)
        plain = it.found.api.set_scale

        async def slower(name: str, replicas: int, version: str) -> Any:
            it.found.set_replicas("encoder", 4)
            return await plain(name, replicas, version)

        it.found.api.set_scale = slower  # type: ignore[method-assign]  # a person scales between read and write
        await it.pass_s(10)
        assert it.found.replicas("encoder") == 4


async def test_a_change_of_something_else_is_no_reason_to_decide_anew(tmp_path: Path) -> None:
    """The status of a StatefulSet has its version, too, and changes whenever a pod does."""
    async with bench(tmp_path) as it:
        it.says[Role.ENCODER] = {"load": 2.0}
        await it.pass_s(10)
        plain, changes = it.found.api.set_scale, [True]

        async def slower(name: str, replicas: int, version: str) -> Any:
            if changes:
                changes.pop()
                note = {"annotations": {"note": "changed"}}
                it.found.kube.store.edit(
                    it.found.sets, NAMESPACE, name, lambda item: item["metadata"].update(note)
                )
            return await plain(name, replicas, version)

        it.found.api.set_scale = slower  # type: ignore[method-assign]  # between read and write
        await it.pass_s(10)
        assert it.found.replicas("encoder") == 3
        assert it.scaler.counts["encoder", "up"] == 1


async def test_who_does_not_lead_scales_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as it:
        it.cluster.fence._elected = True
        it.says[Role.ENCODER] = {"load": 5.0}
        await it.pass_s(60)
        assert it.found.replicas("encoder") == 1
        assert it.scaler.replicas[Role.ENCODER] == 1


async def three_encoders_with_little_to_do(it: Bench) -> None:
    it.found.set_replicas("encoder", 3)
    await until(lambda: len(it.found.names()) == 4)
    for number in range(3):
        it.attach(f"{RELEASE}-encoder-{number}", Role.ENCODER)
    it.says[Role.ENCODER] = {"load": 0.9}


async def test_a_pod_that_could_not_be_removed_takes_streams_again(tmp_path: Path) -> None:
    """Not for want of an answer of the API should one stand idle that is counted upon."""
    async with bench(tmp_path) as it:
        await three_encoders_with_little_to_do(it)
        it.found.kube.faults.add(method="PATCH", path="/scale", status=500, times=-1)
        await it.pass_s(DOWN_S + 130)
        await it.pass_s(10)
        assert it.found.replicas("encoder") == 3
        assert it.scaler.counts["encoder", "down"] == 1
        assert it.standing(f"{RELEASE}-encoder-2") is Standing.READY


async def test_a_pod_that_attaches_anew_while_it_is_emptied_takes_nothing(tmp_path: Path) -> None:
    """It would be removed with what was placed on it meanwhile."""
    async with bench(tmp_path) as it:
        await three_encoders_with_little_to_do(it)
        it.streams[f"{RELEASE}-encoder-2"] = 1
        await it.pass_s(DOWN_S + 130)
        assert it.standing(f"{RELEASE}-encoder-2") is Standing.DRAINING
        it.attach(f"{RELEASE}-encoder-2", Role.ENCODER)
        assert it.standing(f"{RELEASE}-encoder-2") is Standing.READY
        await it.pass_s(5)
        assert it.standing(f"{RELEASE}-encoder-2") is Standing.DRAINING


async def test_pairs_are_scaled_by_the_role_that_needs_more(tmp_path: Path) -> None:
    """One number for both; a pair goes when nothing is on either of its services."""
    async with bench(tmp_path, pairs=True, reasoners=Bounds(least=1, most=4)) as it:
        it.says = {Role.ENCODER: {"load": 1.9}, Role.REASONER: {"load": 0.1}}
        await it.pass_s(20)
        assert it.found.replicas("pair") == 3
        await until(lambda: len(it.found.names()) == 3)
        assert {each.name for each in it.scaler.wanted} == {
            f"{RELEASE}-pair-{number}-{role.value}" for number in range(3) for role in Role
        }
        for each in it.scaler.wanted:
            it.attach(each.name, each.role)
        top = f"{RELEASE}-pair-2"
        it.says = {Role.ENCODER: {"load": 0.1}, Role.REASONER: {"load": 0.9}}
        it.streams[f"{top}-reasoner"] = 1
        await it.pass_s(DOWN_S + 130)
        assert {it.standing(f"{top}-{role.value}") for role in Role} == {Standing.DRAINING}
        assert it.standing(f"{RELEASE}-pair-1-encoder") is Standing.READY
        assert it.found.replicas("pair") == 3, "its reasoner is not empty yet"
        it.streams.clear()
        await it.pass_s(5)
        assert it.found.replicas("pair") == 2
        assert it.scaler.replicas == {Role.ENCODER: 2, Role.REASONER: 2}
        scales = {each.path.split("/")[-2] for each in it.found.kube.seen if each.path.endswith("/scale")}
        assert scales == {f"{RELEASE}-pair"}, "what is not there is not asked for"
