"""A service attaches, beats, and attaches again when the orchestrator comes back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

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

SECRET = b"0" * 32


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
