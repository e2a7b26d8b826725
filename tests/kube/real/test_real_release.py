"""Helm installs the chart at a real API server; its pods watch, answer, and outlive each other.

The tests build on each other, in their order: one release from its first to its last day.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import tandem
from tandem.commands.demo import _known, _play
from tandem.commands.demo_view import DemoView, is_right
from tests.kube.real.cluster import RELEASE, Cluster, cluster, is_ready
from tests.kube.real.load import check_nothing_lost, load

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif("TANDEM_KUBE_BIN" not in os.environ, reason="run by scripts/kube-check"),
]
VALUES = {"insecure": True, "encoder": {"threads": 1}, "reasoner": {"threads": 1}}
MORE = {
    "insecure": True,
    "orchestrator": {"replicas": 2},
    "encoder": {"threads": 1, "replicas": 2},
    "reasoner": {"threads": 1, "replicas": 2},
}
ONE = ("video-encoder-0", "video-orchestrator-0", "video-reasoner-0")
TWO = (*ONE, "video-encoder-1", "video-orchestrator-1", "video-reasoner-1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


async def test_helm_installs_it_and_its_own_test_passes(real: Cluster) -> None:
    await real.helm("install", real.chart, RELEASE, VALUES)
    await real.ready(*ONE)
    await real.helm("test", RELEASE, timeout=120)


async def test_a_client_gets_right_answers(real: Cluster, tmp_path: Path) -> None:
    from tandem.shapes.video import demo_clip, write_mp4

    clip = demo_clip()
    write_mp4(tmp_path / "clip.mp4", clip)
    with (tmp_path / "said").open("w") as said:
        view = DemoView(_known(clip), said)
        outcomes = await _play(await real.door(), tmp_path / "clip.mp4", clip, view, 4.0)
    known = _known(clip)
    wrong = [
        each
        for each in outcomes
        if each.answer is None or not is_right(each.answer.text, known[each.planned.at_us, each.planned.text])
    ]
    assert len(outcomes) == len(known) >= 8
    assert not wrong


async def test_an_upgrade_brings_more_of_everything(real: Cluster) -> None:
    await real.helm("upgrade", real.chart, RELEASE, MORE)
    await real.ready(*TWO)
    async with tandem.connect(await real.door()) as client:
        status = await client.status()
    assert {each.name for each in status.services} == {each for each in TWO if "orchestrator" not in each}


@pytest.mark.parametrize("role", ["encoder", "reasoner"])
async def test_a_pod_is_deleted_under_load_and_nothing_is_lost(
    real: Cluster, role: str, tmp_path: Path
) -> None:
    """It drains: its streams move to the other one, and back it comes under its name."""
    name = f"video-{role}-0"
    before = (await real.pods())[name]["metadata"]["uid"]
    async with load(await real.door(), tmp_path / "load", 30) as report:
        await real.delete_pod(name)
        # One that holds a stream of a former leader stays for its whole drain: its client may come back.
        await real.until(lambda pods: name in pods and pods[name]["metadata"]["uid"] != before, 180)
        await real.ready(*TWO)
    check_nothing_lost(report)


@pytest.mark.parametrize("role", ["encoder", "reasoner"])
async def test_a_container_is_killed_under_load_and_nothing_is_lost(
    real: Cluster, role: str, tmp_path: Path
) -> None:
    """No time to drain; the kubelet starts it again where it was."""
    name = f"video-{role}-0"
    async with load(await real.door(), tmp_path / "load", 30) as report:
        first = real.pod(name).first(role)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await real.until(lambda pods: restarts(pods[name]) > 0)
        await real.ready(*TWO)
    # Text that was sent is never taken back: what a killed reasoner was answering ends with what is there.
    check_nothing_lost(report, may_end_early=role == "reasoner")


async def test_the_leader_is_deleted_under_load_and_nothing_is_lost(real: Cluster, tmp_path: Path) -> None:
    identity = await real.leader()
    leader = identity.partition("/")[0]
    async with load(await real.door(), tmp_path / "load", 30) as report:
        await real.delete_pod(leader)
        await real.until(lambda pods: leader not in pods or not is_ready(pods[leader]))
        await real.ready(*TWO)
    assert await real.leader() != identity
    check_nothing_lost(report)


async def test_a_rolling_upgrade_under_load_loses_nothing(real: Cluster, tmp_path: Path) -> None:
    """All three roles at once: each pod of each is replaced, one after another, as its successor is ready."""
    before = {name: pod["metadata"]["uid"] for name, pod in (await real.pods()).items()}
    async with load(await real.door(), tmp_path / "load", 90) as report:
        await real.helm("upgrade", real.chart, RELEASE, {**MORE, "log": {"level": "debug"}})
        await real.until(
            lambda pods: (
                set(pods) == set(TWO) and all(pods[each]["metadata"]["uid"] != before[each] for each in pods)
            ),
            180,
        )
        await real.ready(*TWO)
    check_nothing_lost(report)


async def test_the_orchestrator_scales_with_its_own_rights(real: Cluster) -> None:
    scales = {"autoscaling": {"mode": "orchestrator", "minReplicas": 3, "maxReplicas": 3}}
    values = {**MORE, "encoder": {"threads": 1, **scales}}
    values["reasoner"] = {"threads": 1, "autoscaling": {"mode": "orchestrator", "minReplicas": 1}}
    await real.helm("upgrade", real.chart, RELEASE, values)
    await real.until(lambda pods: sum(is_ready(pods[each]) for each in pods if "encoder" in each) == 3, 180)
    whole = await real.get("/apis/apps/v1 statefulsets/video-encoder")
    assert whole["spec"]["replicas"] == 3


async def test_it_rolls_back_and_leaves(real: Cluster) -> None:
    await real.helm("rollback", RELEASE, version=1)
    await real.ready(*ONE, within_s=240)
    await real.helm("uninstall", RELEASE)
    await real.until(lambda pods: not pods, 120)
    secrets = [each["metadata"]["name"] for each in (await real.get("/api/v1 secrets"))["items"]]
    assert "video-secret" in secrets, "blocks on disk are of no use without it"
    assert not [each for each in secrets if each.startswith("sh.helm.release")]


def restarts(pod: dict[str, object]) -> int:
    """Of the first container."""
    status = pod["status"]
    assert isinstance(status, dict)
    return int(status["containerStatuses"][0]["restartCount"])
