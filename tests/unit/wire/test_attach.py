"""A service attaches, beats, and attaches again when the orchestrator comes back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tandem.wire.attach import (
    Attachment,
    ServiceIdentity,
    ServiceLoad,
    attach_proof,
    build_info,
    make_boot_id,
    model_info,
)
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import registry_pb2, registry_pb2_grpc, types_pb2
from tandem.wire.leaving import Leaving

SECRET = b"0" * 32


def identity_of(role: str) -> ServiceIdentity:
    return ServiceIdentity(
        name=f"{role}-0", role=role, address="127.0.0.1:1", boot_id="b", model=types_pb2.ModelInfo()
    )


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self) -> None:
        self.hellos: list[registry_pb2.AttachRequest.Hello] = []
        self.beats: asyncio.Queue[registry_pb2.AttachRequest.Heartbeat] = asyncio.Queue()
        self.drop_after = 2

    async def Attach(self, requests: Any, context: Any) -> AsyncIterator[registry_pb2.AttachResponse]:
        beats = 0
        async for request in requests:
            if request.WhichOneof("event") == "hello":
                self.hellos.append(request.hello)
                accepted = registry_pb2.AttachResponse.Accepted(heartbeat_ms=50, lease_ms=500)
                yield registry_pb2.AttachResponse(accepted=accepted)
            else:
                beats += 1
                self.beats.put_nowait(request.heartbeat)
                if beats == self.drop_after:
                    return


async def test_a_service_attaches_beats_and_attaches_again() -> None:
    registry, server = Registry(), make_server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    boot_id = make_boot_id()
    identity = ServiceIdentity(
        name="encoder-0", role="encoder", address="127.0.0.1:1", boot_id=boot_id, model=types_pb2.ModelInfo()
    )

    async def on_drain(grace_s: float) -> None:
        raise AssertionError("nobody asked to drain")

    attachment = Attachment(address, SECRET, identity, lambda: ServiceLoad(3, {"lane": "shm"}), on_drain)
    attachment.start()
    numbers = [(await asyncio.wait_for(registry.beats.get(), 10)).number for _ in range(4)]
    await attachment.close()
    await server.stop(None)
    assert numbers == [1, 2, 1, 2]
    assert {hello.proof for hello in registry.hellos} == {
        attach_proof(SECRET, "encoder-0", "encoder", boot_id, "127.0.0.1:1")
    }
    assert registry.hellos[0].build == build_info(boot_id)


def test_the_model_of_a_service_is_told_with_its_own_rate() -> None:
    info = model_info("default", "f" * 32, frames_per_unit=2, seconds_per_unit=0.5)
    assert (info.source, info.fingerprint, info.native_fps) == ("default", "f" * 32, 4.0)


class Quiet(registry_pb2_grpc.RegistryServiceServicer):
    """Answers two heartbeats, then nothing more, as one that was frozen does."""

    def __init__(self) -> None:
        self.hellos = 0
        self.leaving: list[bool] = []

    async def Attach(self, requests: Any, context: Any) -> AsyncIterator[registry_pb2.AttachResponse]:
        beats = 0
        async for request in requests:
            if request.WhichOneof("event") == "hello":
                self.hellos += 1
                accepted = registry_pb2.AttachResponse.Accepted(heartbeat_ms=60_000, lease_ms=300)
                yield registry_pb2.AttachResponse(accepted=accepted)
                continue
            self.leaving.append(request.heartbeat.leaving)
            beats += 1
            if beats <= 2:
                yield registry_pb2.AttachResponse(beat=registry_pb2.AttachResponse.Beat(number=beats))


async def test_a_service_attaches_anew_to_one_that_fell_silent_and_says_at_once_that_it_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tandem.wire.attach._MIN_SILENCE_S", 0.2)
    registry, server = Quiet(), make_server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    identity = identity_of("encoder")
    leaving = Leaving(5.0)
    attachment = Attachment(address, SECRET, identity, lambda: ServiceLoad(1, {}), leaving.drain)
    attachment.start()
    async with asyncio.timeout(10):
        while registry.hellos < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while not attachment.is_attached:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        streams = [1]
        waiting = asyncio.create_task(leaving.wait_for_streams(attachment, lambda: len(streams)))
        while not registry.leaving[-1]:  # noqa: ASYNC110 - the next heartbeat is due in a minute
            await asyncio.sleep(0.01)
        assert not waiting.done()
        streams.clear()
        assert await waiting > 4.0
    await attachment.close()
    await server.stop(None)


async def test_nobody_waits_for_an_orchestrator_that_is_not_there() -> None:
    leaving = Leaving(30.0)
    identity = identity_of("encoder")
    attachment = Attachment("127.0.0.1:9", SECRET, identity, lambda: ServiceLoad(1, {}), leaving.drain)
    left_s = await asyncio.wait_for(leaving.wait_for_streams(attachment, lambda: 1), 2)
    assert left_s > 25


class Gone(registry_pb2_grpc.RegistryServiceServicer):
    """Ends the first attachment when it is told to, as one that is replaced, and takes the next."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.hellos = 0

    async def Attach(self, requests: Any, context: Any) -> AsyncIterator[registry_pb2.AttachResponse]:
        self.hellos += 1
        is_first = self.hellos == 1
        yield registry_pb2.AttachResponse(
            accepted=registry_pb2.AttachResponse.Accepted(heartbeat_ms=50, lease_ms=5_000)
        )
        await (self.ends.wait() if is_first else asyncio.Event().wait())


@pytest.mark.parametrize(("returns_s", "waits"), [(20.0, True), (0.0, False)])
async def test_streams_wait_for_an_orchestrator_that_is_replaced(returns_s: float, waits: bool) -> None:
    """An upgrade replaces all roles side by side: nobody drops what it holds for two seconds without."""
    registry, server = Gone(), make_server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    identity = identity_of("reasoner")
    leaving, streams = Leaving(30.0, returns_s=returns_s), [1]
    attachment = Attachment(address, SECRET, identity, lambda: ServiceLoad(1, {}), leaving.drain)
    attachment.start()
    async with asyncio.timeout(20):
        while not attachment.is_attached:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(leaving.wait_for_streams(attachment, lambda: len(streams)))
        await asyncio.sleep(0.1)
        registry.ends.set()
        while attachment.is_attached:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if waits:
            while registry.hellos < 2 or not attachment.is_attached:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not waiting.done()
            streams.clear()
        assert await waiting > 20.0
    await attachment.close()
    await server.stop(None)


async def test_an_orchestrator_that_stays_away_is_not_waited_for_to_the_end() -> None:
    registry, server = Gone(), make_server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    identity = identity_of("reasoner")
    leaving = Leaving(30.0, returns_s=0.5)
    attachment = Attachment(address, SECRET, identity, lambda: ServiceLoad(1, {}), leaving.drain)
    attachment.start()
    async with asyncio.timeout(20):
        while not attachment.is_attached:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await server.stop(0)
        began_s = asyncio.get_running_loop().time()
        left_s = await leaving.wait_for_streams(attachment, lambda: 1)
        assert 0.4 < asyncio.get_running_loop().time() - began_s < 5
        assert left_s > 20
    await attachment.close()
