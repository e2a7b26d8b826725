"""Two orchestrators of a release at the fake API: one leads, the other says who, and all go there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tandem
from orchestrator.access import digest
from orchestrator.app import Orchestrator
from orchestrator.backends.kubernetes_backend import KubernetesBackend
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.config import OrchestratorConfig
from orchestrator.limits import Limits
from orchestrator.reasoner_link import ReasonerLink
from orchestrator.waiting import Gone
from tandem.client import ClientSettings, Security
from tandem.commands.drain import ask_to_leave
from tandem.core.errors import NotLeader, PermissionRefused, WrongState
from tandem.core.ids import StreamId
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, registry_pb2, registry_pb2_grpc
from tandem.wire.health import READY
from tandem.wire.proof import ProvenChannel
from tandem.wire.status import error_from_rpc
from tests.certificates import Ca
from tests.integration.orchestrator_fakes import MODEL, Client, FakeEncoder, FakeReasoner, Hosted
from tests.kube.release import NAMESPACE, RELEASE, Release, release, until
from tests.kube.servers import TOKEN, write_kubeconfig


class Pair:
    """Two orchestrators, an encoder and a reasoner that know only the second."""

    def __init__(
        self, found: Release, folder: Path, tls: TlsFiles = NO_TLS, tokens: Path | None = None
    ) -> None:
        self.found, self.folder, self.tls, self.tokens = found, folder, tls, tokens
        self.secret_file = folder / "secret"
        self.secret_file.write_text("a secret that both of them share")
        self.secret_file.chmod(0o600)
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig", found.kube.url, TOKEN)
        self.apps: list[Orchestrator] = []
        self.hosted: list[Hosted] = []
        self.reasoners: dict[str, FakeReasoner] = {}

    async def orchestrator(self, pod: str) -> Orchestrator:
        config = OrchestratorConfig(
            listen="127.0.0.1:0",
            health="127.0.0.1:0",
            tls=self.tls,
            tokens=self.tokens,
            run_dir=self.folder / pod,
            secret_file=self.secret_file,
            backend="kubernetes",
            kubernetes=KubernetesSettings(
                release=RELEASE, namespace=NAMESPACE, kubeconfig=self.kubeconfig, pod=pod, lease_s=2.0
            ),
            heartbeat_s=0.1,
            lease_s=2.0,
            limits=Limits(resume_seconds=60),
        )
        app = Orchestrator(config, lambda text: None)
        self.apps.append(app)
        await app.start()
        return app

    async def serve(self, name: str, orchestrator: Orchestrator) -> Hosted:
        role = "reasoner" if "reasoner" in name else "encoder"
        servicer: Any
        if role == "reasoner":
            servicer = self.reasoners[name] = FakeReasoner()
        else:
            servicer = FakeEncoder(self.reasoners)
        hosted = Hosted(name, role, servicer, orchestrator, MODEL)
        self.hosted.append(hosted)
        await hosted.start()
        return hosted

    async def close(self) -> None:
        for hosted in self.hosted:
            await hosted.close()
        for app in self.apps:
            await app.stop()


@asynccontextmanager
async def pair(folder: Path, tls: TlsFiles = NO_TLS, tokens: Path | None = None) -> AsyncIterator[Pair]:
    async with release(folder) as found:
        found.install()
        found.free_lease()
        made = Pair(found, folder, tls, tokens)
        try:
            yield made
        finally:
            await made.close()


def ready(app: Orchestrator) -> set[str]:
    return {member.identity.name for member in app.cluster.members if member.is_ready}


@pytest.fixture(autouse=True)
def _short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that never end by themselves are waited for when a server stops."""
    monkeypatch.setattr("orchestrator.app.STOP_GRACE_S", 0.2)
    monkeypatch.setattr("orchestrator.cluster._CLOSE_GRACE_S", 0.1)


SERVICES = {f"{RELEASE}-encoder-0", f"{RELEASE}-reasoner-0"}


async def test_who_stands_by_says_who_leads_and_takes_over_with_all_streams(tmp_path: Path) -> None:
    async with pair(tmp_path) as it:
        it.found.controllers.held.add(f"{RELEASE}-encoder-1")
        it.found.set_replicas("encoder", 2)
        first = await it.orchestrator("o-0")
        await until(lambda: first.cluster.fence.leads)
        second = await it.orchestrator("o-1")
        await until(lambda: bool(second.cluster.fence.leader))
        for name in sorted(SERVICES):
            await it.serve(name, second)
        await until(lambda: ready(first) == SERVICES)
        assert not ready(second)
        assert isinstance(first.backend, KubernetesBackend)
        await until(
            lambda: len(first.backend.wanted) == 3 and f"{RELEASE}-encoder-1" in first.backend.endings
        )
        reasoner = it.reasoners[f"{RELEASE}-reasoner-0"]
        client = await watch(first)
        for number in range(4):
            await client.picture(number * 500)
        await until(lambda: len(reasoner.streams["cam"].blocks) == 4)
        token, epoch, term = (
            client.welcome.resume_token,
            reasoner.streams["cam"].epoch,
            first.cluster.fence.term,
        )
        async with tandem.connect(second.address) as t:
            status = await t.status()
            assert status.term == term > 0
            services = {service.name: service for service in status.services}
            assert services[f"{RELEASE}-encoder-0"].state == "ready"
            assert services[f"{RELEASE}-encoder-1"].state == "starting"
            assert "Insufficient nvidia.com/gpu" in services[f"{RELEASE}-encoder-1"].reason
            await first.stop()
            it.apps.remove(first)
            await until(lambda: ready(second) == SERVICES)
            assert second.cluster.fence.term > term
            assert (await t.status()).term == second.cluster.fence.term
        assert all(each.terms.highest == second.cluster.fence.term for each in it.hosted)
        client = await watch(second, token)
        await until(lambda: reasoner.streams["cam"].epoch > epoch)
        assert client.welcome.resumed
        assert len(reasoner.streams["cam"].blocks) == 4, "what was published is still there"


async def watch(app: Orchestrator, token: str = "") -> Client:
    stub: Any = client_pb2_grpc.TandemServiceStub(make_channel(app.address))
    client = Client(stub.Watch())
    await client.open("cam", token, 1)
    return client


async def test_a_former_leader_can_place_nothing_whatever_it_believes(tmp_path: Path) -> None:
    """Its own checks are made to fail: as for a process that was stopped between its check and its call."""
    async with pair(tmp_path) as it:
        first = await it.orchestrator("o-0")
        await until(lambda: first.cluster.fence.leads)
        former = first.cluster.fence.metadata(first.cluster.secret)
        second = await it.orchestrator("o-1")
        await first.stop()
        it.apps.remove(first)
        await until(lambda: second.cluster.fence.leads)
        hosted = await it.serve(f"{RELEASE}-reasoner-0", second)
        await until(lambda: ready(second) == {f"{RELEASE}-reasoner-0"})
        service = second.cluster.service(f"{RELEASE}-reasoner-0")
        assert service is not None
        stream = StreamId("cam")
        whose = service.identity
        proven = ProvenChannel(whose.address, second.cluster.secret, whose.name, whose.boot_id)
        async with proven as channel:
            late = ReasonerLink(channel, Gone("the reasoner"), former)
            for metadata, link in ((former, late), ((), ReasonerLink(channel, Gone("the reasoner")))):
                with pytest.raises(WrongState, match="leads no more"):
                    await link.open_stream(stream, 1 << 40, "encoder-0", incarnation="i", fresh=False)
                with pytest.raises(WrongState, match="leads no more"):
                    await link.close_stream(stream)
                assert metadata in (former, ())
        await service.link.open_stream(stream, 1, "encoder-0", incarnation="i", fresh=False)
        assert isinstance(hosted.servicer, FakeReasoner)
        assert hosted.servicer.streams["cam"].epoch == 1


async def test_who_does_not_lead_refuses_every_call(tmp_path: Path) -> None:
    async with pair(tmp_path) as it:
        it.found.kube.faults.add(path="/leases", status=500, times=-1)
        alone = await it.orchestrator("o-0")
        impatient = ClientSettings(open_timeout_s=0.5)
        async with tandem.connect(alone.address, settings=impatient) as t:
            with pytest.raises(NotLeader, match="stands by"):
                await t.status()
            with pytest.raises(NotLeader):
                await t.ask("cam", "what is there?")
        front_door = client_pb2.DESCRIPTOR.services_by_name["TandemService"].full_name
        assert not await serves(alone.address, front_door)
        (health,) = (line.split()[0] for line in alone.listeners() if " health" in line)
        assert await serves(health, READY), "a rollout waits for it, and it for the lead"


async def serves(address: str, service: str) -> bool:
    async with make_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        reply = await health_pb2_grpc.HealthStub(channel).Check(request)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def test_over_tls_with_tokens_all_go_to_who_leads_and_others_learn_nothing(tmp_path: Path) -> None:
    tls = Ca(tmp_path / "ca").issue("release")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "ops"\nsha256 = "{digest("t" * 32)}"\nrights = ["admin"]\n')
    async with pair(tmp_path, tls, tokens) as it:
        first = await it.orchestrator("o-0")
        await until(lambda: first.cluster.fence.leads)
        second = await it.orchestrator("o-1")
        await until(lambda: bool(second.cluster.fence.leader))
        for name in sorted(SERVICES):
            await it.serve(name, second)
        await until(lambda: ready(first) == SERVICES)
        async with tandem.connect(second.address, security=Security(tls=tls, token="t" * 32)) as t:
            status = await t.status()
            assert status.term == first.cluster.fence.term
            assert {service.name for service in status.services} == SERVICES
            await first.stop()
            it.apps.remove(first)
            await until(lambda: ready(second) == SERVICES)
            assert (await t.status()).term == second.cluster.fence.term
        third = await it.orchestrator("o-2")
        await until(lambda: bool(third.cluster.fence.leader))
        ops, name = Security(tls=tls, token="t" * 32), f"{RELEASE}-reasoner-0"
        assert (await ask_to_leave(third.address, name, it.secret_file, 0.0, ops)).boot_id
        await until(lambda: name not in ready(second))
        async with tandem.connect(third.address, security=Security(tls=tls, token="x" * 32)) as t:
            with pytest.raises(PermissionRefused) as refused:
                await t.status()
            assert second.address not in str(refused.value)
        async with make_channel(third.address, tls) as channel:
            stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await stub.DrainService(registry_pb2.DrainServiceRequest(name="demo-encoder-0"))
        assert isinstance(error_from_rpc(cut.value, "draining"), PermissionRefused)
        assert second.address not in str(cut.value)
