"""Services on a Ray of several nodes: a node lost under load, an actor killed, a child frozen, and more.

About a minute and a half, most of which is the start of Python processes that import torch. The lost node
is in the default run, the rest with `-m slow`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import os
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.backends.base import services
from orchestrator.backends.ray_cluster import Dead, Look, RayCluster
from orchestrator.backends.ray_plan import Group, ServiceSpec, groups, run_name, run_of
from orchestrator.backends.ray_settings import RaySettings
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2
from tests.integration.orchestrator_fakes import Client
from tests.integration.ray_nodes import RayNodes, is_gone, parent
from tests.integration.up_processes import PERIOD_MS, START_S, Front, Up, ask, push, running_up

FRAMES = 16
"""Two to a block of the dummy model."""
NAMES = ("encoder-0", "encoder-1", "reasoner-0", "reasoner-1")
GONE_S = 10.0

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'"),
    # Ray reads and leaves its sockets and processes to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("OMP_NUM_THREADS", "1")
        running = RayNodes(2)
        try:
            yield running
        finally:
            running.shutdown()


@pytest.fixture(scope="module")
def up(nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    place = tmp_path_factory.mktemp("up")
    options = ["--backend", "ray", "--address", nodes.address, "--encoders", "2", "--reasoners", "2"]
    options += ["--data-dir", str(place / "data"), "--fsync-seconds", "0"]
    with running_up(place / "run", *options) as running:
        yield running


@pytest.fixture
async def front(nodes: RayNodes, up: Up) -> AsyncIterator[Front]:
    nodes.restore()
    async with make_channel(up.address()) as channel:
        front = Front(channel)
        await pids(front)
        yield front


async def pids(front: Front) -> dict[str, int]:
    """Of all services, once all are ready."""
    return {name: await front.pid(name) for name in NAMES}


async def until_replaced(front: Front, name: str, former: int) -> int:
    async with asyncio.timeout(START_S):
        while True:
            pid = await front.pid(name)
            if pid != former:
                return pid
            await asyncio.sleep(0.1)


async def reasoner_of_the_stream(front: Front) -> str:
    async with asyncio.timeout(10):
        while True:
            for service in (await front.status()).services:
                if service.role == "reasoner" and service.streams:
                    return service.name
            await asyncio.sleep(0.1)


async def reference(front: Front) -> str:
    """What an undisturbed stream is answered."""
    client = await front.watch("reference")
    await push(client, 0, FRAMES)
    answer = await ask(client, "q")
    await forget(client)
    return answer.text


async def forget(client: Client) -> None:
    await client.end(forget=True)
    await client.finished(30)


def check_whole(client: Client, answer: client_pb2.Answer) -> None:
    """Every frame is in view, and none twice."""
    assert answer.error.code == "", answer.error
    assert answer.evidence.blocks == FRAMES // 2
    assert [(r.start_us, r.end_us) for r in answer.evidence.seen] == [(0, FRAMES * PERIOD_MS * 1000)]
    assert not client.progress.gaps


async def test_a_node_lost_under_load_costs_time_only(nodes: RayNodes, up: Up, front: Front) -> None:
    for role in ("encoder", "reasoner"):
        placed = {id(nodes.of(await front.pid(f"{role}-{index}"))) for index in range(2)}
        assert len(placed) == 2, f"both {role}s on one node"
    expected = await reference(front)
    client = await front.watch("node")
    await push(client, 0, FRAMES // 2)
    await client.until(lambda: client.progress.durable_watermark_us >= 2_000_000, START_S)
    durable_us = client.progress.durable_watermark_us
    lost = nodes.of(await front.pid(await reasoner_of_the_stream(front)))
    asking = asyncio.create_task(ask_on(client, 6))
    await asyncio.sleep(0.3)
    nodes.lose(lost)
    began_s = time.monotonic()
    await push(client, FRAMES // 2, FRAMES)
    answer = await ask(client, "after")
    print(f"node lost: whole again after {time.monotonic() - began_s:.2f} s")
    check_whole(client, answer)
    assert answer.text == expected
    assert client.progress.durable_watermark_us >= durable_us
    cut_short = [record for record in await asking if record.error.code]
    assert len(cut_short) <= 1, "they are asked one after another, and one node was lost"
    # What was sent of an answer is never taken back.
    assert all(record.error.code == "data_lost" and record.text for record in cut_short), cut_short
    await forget(client)


@pytest.mark.slow
async def test_a_node_that_is_added_takes_what_had_no_room(nodes: RayNodes, up: Up, front: Front) -> None:
    former = await front.pid("reasoner-0")
    nodes.lose(nodes.of(former))
    await until_said(up, "waits for a node with 1 CPU")
    nodes.restore()
    began_s = time.monotonic()
    await until_replaced(front, "reasoner-0", former)
    await pids(front)
    print(f"node added: all services ready after {time.monotonic() - began_s:.2f} s")


async def ask_on(client: Client, count: int) -> list[client_pb2.Answer]:
    answers = []
    for number in range(count):
        answers.append(await ask(client, f"load-{number}"))
        await asyncio.sleep(0.2)
    return answers


async def until_said(up: Up, words: str) -> None:
    async with asyncio.timeout(30):
        while True:
            if words in (up.run_dir.parent / "up.log").read_text():
                return
            await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_a_child_frozen_and_another_with_its_actor_killed(front: Front) -> None:
    former = await pids(front)
    client = await front.watch("actor")
    await push(client, 0, FRAMES // 2)
    both, frozen = former["encoder-0"], former["reasoner-1"]
    actor_of_frozen = parent(frozen)
    began_s = time.monotonic()
    os.kill(frozen, signal.SIGSTOP)
    os.kill(both, signal.SIGSTOP)
    os.kill(parent(both), signal.SIGKILL)
    await push(client, FRAMES // 2, FRAMES)
    check_whole(client, await ask(client, "after"))
    assert parent(await until_replaced(front, "reasoner-1", frozen)) == actor_of_frozen
    print(f"child frozen: another after {time.monotonic() - began_s:.2f} s")
    told = {service.name: service.last_loss for service in (await front.status()).services}
    assert "signal SIGKILL: " in told["reasoner-1"], told
    await until_replaced(front, "encoder-0", both)
    print(f"actor killed: another child after {time.monotonic() - began_s:.2f} s")
    assert is_gone(frozen, GONE_S)
    assert is_gone(both, GONE_S), "a frozen child outlived its actor"
    await forget(client)


@pytest.mark.slow
async def test_the_next_orchestrator_finds_the_services(up: Up, front: Front) -> None:
    former = await pids(front)
    first = await front.watch("orchestrator")
    await push(first, 0, FRAMES // 2)
    await first.until(lambda: first.progress.safe_position >= FRAMES // 4, START_S)
    began_s = time.monotonic()
    os.kill(await front.pid("orchestrator"), signal.SIGKILL)
    await first.finished(30)
    second = await front.watch("orchestrator", first.welcome.resume_token)
    await push(second, second.welcome.next_position, FRAMES)
    check_whole(second, await ask(second, "after"))
    print(f"orchestrator killed: whole again after {time.monotonic() - began_s:.2f} s")
    assert await pids(front) == former
    await until_said(up, "found on Ray: encoder-0, encoder-1, reasoner-0, reasoner-1")
    await forget(second)


@pytest.mark.slow
async def test_a_clean_stop_leaves_nothing(nodes: RayNodes, up: Up, front: Front) -> None:
    running = list((await pids(front)).values())
    actors = [parent(pid) for pid in running]
    run = run_name((up.run_dir / "secret").read_bytes())
    assert up.stop() == 0
    assert all(is_gone(pid, GONE_S) for pid in (*running, *actors))
    assert [path for path in folder(run).iterdir() if path.name != "logs"] == [], "secrets stayed"
    with Driver(nodes, run) as ray:
        assert ray.named() == []
        assert [name for name in ray.groups() if run_of(name)] == []


def folder(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"tandem-{os.getuid()}" / run


class Driver:
    """A connection of the test's own."""

    def __init__(self, nodes: RayNodes, run: str) -> None:
        self._cluster, self._address = RayCluster(run), nodes.address

    def __enter__(self) -> RayCluster:
        self._cluster.connect(self._address)
        return self._cluster

    def __exit__(self, *error: object) -> None:
        self._cluster.close()


def sleeper(run: str, group: Group, name: str, seconds: int, orphan_s: float) -> ServiceSpec:
    """An actor whose child only sleeps: what Ray and the actor do is the same."""
    return ServiceSpec(
        name=name,
        role="encoder",
        run=run,
        group=group.name,
        arguments=("-c", f"import time; time.sleep({seconds})"),
        secret="of a test",
        only_this_host=True,
        uses_gpu=False,
        orphan_s=orphan_s,
    )


def until_digest(ray: RayCluster, spec: ServiceSpec) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        look = ray.look([spec.name], 0.5).get(spec.name)
        if isinstance(look, Look) and look.digest == spec.digest:
            return
        time.sleep(0.1)
    raise AssertionError(f"{spec.name} does not run what it should")


def sleepers(spec: ServiceSpec) -> list[int]:
    """Pids of the processes that a spec started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if spec.arguments[1].encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_actors_are_told_other_things_and_end_when_nobody_asks(nodes: RayNodes) -> None:
    run = run_name(secrets.token_bytes(8))
    [group] = groups(run, services(encoders=2, reasoners=0), RaySettings(), "cpu")
    one, two, other = (
        sleeper(run, group, name, seconds, 3.0)
        for name, seconds in (("encoder-0", 6001), ("encoder-1", 6002), ("encoder-0", 6003))
    )
    with Driver(nodes, run) as ray:
        ray.make_group(group)
        for spec in (one, two):
            ray.create(spec, group, ray.groups()[group.name])
        for spec in (one, two):
            until_digest(ray, spec)
        assert is_started(one)
        [former] = sleepers(one)
        assert (folder(run) / "secret-encoder-0").stat().st_mode & 0o777 == 0o600
        ray.tell("encoder-0", "adopt", other.to_text())
        until_digest(ray, other)
        assert is_gone(former, GONE_S)
        assert is_started(two)
        assert is_started(other)
        # From here on nobody looks.
        last = sleepers(two) + sleepers(other)
        ray.wait_gone(["encoder-0", "encoder-1"], 20)
        assert [name for namespace, name in ray.named() if namespace == run] == []
        assert [name for name in ray.groups() if run_of(name) == run] == []
    assert all(is_gone(pid, GONE_S) for pid in last)
    assert [path.name for path in folder(run).iterdir()] == ["logs"]


@pytest.mark.slow
def test_a_child_ends_with_its_actor(nodes: RayNodes) -> None:
    run = run_name(secrets.token_bytes(8))
    [group] = groups(run, services(encoders=1, reasoners=0), RaySettings(), "cpu")
    plain = sleeper(run, group, "encoder-0", 6009, 60.0)
    dying = "from tandem.core.lifetime import die_with_parent as d; import os, time; d(os.getppid())"
    spec = dataclasses.replace(plain, arguments=("-c", f"{dying}; time.sleep(6009)"))
    with Driver(nodes, run) as ray:
        ray.make_group(group)
        ray.create(spec, group, ray.groups()[group.name])
        assert is_started(spec)
        [child] = sleepers(spec)
        os.kill(parent(child), signal.SIGKILL)
        assert is_gone(child, GONE_S)
        assert is_started(spec), "Ray starts the actor again, and that its child"
        [child] = sleepers(spec)
        os.kill(child, signal.SIGSTOP)
        os.kill(parent(child), signal.SIGKILL)
        assert is_gone(child, START_S), "a frozen child is killed by the next actor"
        assert is_started(spec)
        frozen = parent(sleepers(spec)[0])
        os.kill(frozen, signal.SIGSTOP)
        ray.kill("encoder-0")
        ray.wait_gone(["encoder-0"], GONE_S)
        assert is_gone(frozen, GONE_S), "an actor that is frozen can be ended"
        ray.remove_groups(list(ray.groups().values()))


@pytest.mark.slow
def test_what_a_service_is_given_and_how_it_ended(nodes: RayNodes, tmp_path: Path) -> None:
    run = run_name(secrets.token_bytes(8))
    [group] = groups(run, services(encoders=1, reasoners=0), RaySettings(), "cpu")
    told = tmp_path / "told"
    code = (
        "import json, os, sys; told = {k: v for k, v in os.environ.items() if k.startswith('OTEL_')}; "
        f"open({str(told)!r}, 'w').write(json.dumps([told, sys.argv[1:]])); sys.exit(3)"
    )
    traces = (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),)
    plain = sleeper(run, group, "encoder-0", 6007, 60.0)
    spec = dataclasses.replace(plain, arguments=("-c", code), serves_metrics=True, environment=traces)
    with Driver(nodes, run) as ray:
        ray.make_group(group)
        ray.create(spec, group, ray.groups()[group.name])
        until_s = time.monotonic() + START_S
        ending = ""
        while not ending and time.monotonic() < until_s:
            look = ray.look(["encoder-0"], 0.5).get("encoder-0")
            ending = look.ending if isinstance(look, Look) else ""
            time.sleep(0.1)
        assert ending == "exit status 3"
        environment, line = json.loads(told.read_text())
        assert environment == dict(traces)
        assert line[line.index("--metrics") + 1] == "127.0.0.1:0"
        ray.stop(["encoder-0"], GONE_S)
        ray.remove_groups(list(ray.groups().values()))


class OfAnotherRelease(ServiceSpec):
    def to_text(self) -> str:
        return "{}"


@pytest.mark.slow
def test_an_actor_that_dies_at_its_start_says_why(nodes: RayNodes) -> None:
    run = run_name(secrets.token_bytes(8))
    [group] = groups(run, services(encoders=1, reasoners=0), RaySettings(), "cpu")
    spec = OfAnotherRelease(**dataclasses.asdict(sleeper(run, group, "encoder-0", 6008, 60.0)))
    with Driver(nodes, run) as ray:
        ray.make_group(group)
        ray.create(spec, group, ray.groups()[group.name])
        until_s = time.monotonic() + START_S
        look = None
        while look is None and time.monotonic() < until_s:
            look = ray.look(["encoder-0"], 0.5)["encoder-0"]
        assert isinstance(look, Dead)
        assert "not the spec of a service" in look.reason
        assert ray.look(["encoder-0"], 0.5) == {}
        ray.remove_groups(list(ray.groups().values()))


@pytest.mark.slow
def test_a_pair_shares_a_node(nodes: RayNodes) -> None:
    run = run_name(secrets.token_bytes(8))
    pairs = groups(run, services(encoders=2, reasoners=2), RaySettings(pack_pairs=True), "cpu")
    with Driver(nodes, run) as ray:
        for number, group in enumerate(pairs):
            ray.make_group(group)
            specs = [
                sleeper(run, group, member.name, 6010 + 2 * number + index, 60.0)
                for index, member in enumerate(group.members)
            ]
            for spec in specs:
                ray.create(spec, group, ray.groups()[group.name])
            assert all(is_started(spec) for spec in specs)
            first, second = (nodes.of(pid) for spec in specs for pid in sleepers(spec))
            assert first is second
        ray.stop(NAMES, GONE_S)
        ray.remove_groups(list(ray.groups().values()))


def is_started(spec: ServiceSpec) -> bool:
    until_s = time.monotonic() + GONE_S
    while time.monotonic() < until_s:
        if sleepers(spec):
            return True
        time.sleep(0.05)
    return False
