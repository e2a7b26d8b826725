"""Every call that our processes serve: what it takes to be let in, and that nobody else is.

A call that is added needs a row in `RULES`: without one the first test fails.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

import tandem.wire.gen.tandem.v1 as generated
from encoder_svc.app import EncoderApp
from encoder_svc.config import EncoderConfig
from orchestrator.access import digest
from orchestrator.app import Orchestrator
from orchestrator.config import OrchestratorConfig
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from tandem.core.errors import PermissionRefused
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.transfer import Hello, Nack
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire import attach
from tandem.wire.channel import make_channel, make_server
from tandem.wire.gen.tandem.v1 import registry_pb2, transfer_pb2
from tandem.wire.proof import PROOF_KEY, call_proof, member_metadata, ticket_metadata
from tandem.wire.status import error_from_rpc
from tandem.wire.transfer_messages import message_from_proto, message_to_proto
from tests.integration.orchestrator_fakes import World

SECRET = b"sixteen bytes or more"
OTHER = b"another secret of sixteen bytes"
TOKEN = "the-token-of-somebody-0123456789"

TOKEN_FIRST, PROOF_FIRST = (
    "a token, before anything is read",
    "a proof of the secret, before anything is read",
)
SECRET_IN_MESSAGE, TICKET_IN_MESSAGE = "the secret, in the first message", "a ticket, in the first message"
NOTHING, NOT_OFFERED = "nothing: told to everybody", "not offered"
RULES = {
    "orchestrator": {
        "/tandem.v1.TandemService/Watch": TOKEN_FIRST,
        "/tandem.v1.TandemService/Ask": TOKEN_FIRST,
        "/tandem.v1.TandemService/ListStreams": TOKEN_FIRST,
        "/tandem.v1.TandemService/GetStatus": TOKEN_FIRST,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": TOKEN_FIRST,
        "/tandem.v1.RegistryService/Attach": SECRET_IN_MESSAGE,
        "/tandem.v1.RegistryService/DrainService": SECRET_IN_MESSAGE,
        "/grpc.health.v1.Health/Check": NOTHING,
        "/grpc.health.v1.Health/List": NOT_OFFERED,
        "/grpc.health.v1.Health/Watch": NOTHING,
    },
    "encoder": {
        "/tandem.v1.EncoderService/Encode": PROOF_FIRST,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": NOTHING,
        "/grpc.health.v1.Health/Check": NOTHING,
        "/grpc.health.v1.Health/List": NOT_OFFERED,
        "/grpc.health.v1.Health/Watch": NOTHING,
    },
    "reasoner": {
        "/tandem.v1.ReasonerService/OpenStream": PROOF_FIRST,
        "/tandem.v1.ReasonerService/CloseStream": PROOF_FIRST,
        "/tandem.v1.ReasonerService/Answer": PROOF_FIRST,
        "/tandem.v1.ReasonerService/WatchStream": PROOF_FIRST,
        "/tandem.v1.ReasonerService/FinishNotes": PROOF_FIRST,
        "/tandem.v1.ReasonerService/Follow": PROOF_FIRST,
        "/tandem.v1.TransferService/Connect": TICKET_IN_MESSAGE,
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": NOTHING,
        "/grpc.health.v1.Health/Check": NOTHING,
        "/grpc.health.v1.Health/List": NOT_OFFERED,
        "/grpc.health.v1.Health/Watch": NOTHING,
    },
}
OF_GRPC = ("/grpc.health.v1.", "/grpc.reflection.")


def test_every_call_of_the_contract_has_a_rule() -> None:
    services: list[ServiceDescriptor] = []
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            found = importlib.import_module(f"{generated.__name__}.{module.name}")
            services += found.DESCRIPTOR.services_by_name.values()
    calls = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert len(calls) > 10
    ruled = [name for rules in RULES.values() for name in rules if not name.startswith(OF_GRPC)]
    assert sorted(ruled) == sorted(calls)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@asynccontextmanager
async def serving(role: str, model: VisionLanguageModel, folder: Path) -> AsyncIterator[str]:
    app: Any
    if role == "encoder":
        app = EncoderApp(EncoderConfig(reflection=True), model, SECRET)
        stop = app.stop
    elif role == "reasoner":
        app = Reasoner(ReasonerConfig(name="reasoner", secret=SECRET, reflection=True), model)
        stop = lambda: app.stop(0.0)  # noqa: E731
    else:
        (folder / "secret").write_bytes(SECRET)
        (folder / "secret").chmod(0o600)
        config = OrchestratorConfig(
            listen="127.0.0.1:0",
            run_dir=folder / "run",
            encoders=0,
            reasoners=0,
            reflection=True,
            secret_file=folder / "secret",
            tokens=_some_tokens(folder),
        )
        app = Orchestrator(config, lambda text: None)
        stop = app.stop
    address = await app.start()
    try:
        yield address
    finally:
        await stop()


def ticket(secret: bytes) -> bytes:
    fields = {"pair_id": "pair", "epoch": 1, "encoder_id": "e", "reasoner_id": "reasoner"}
    return sign_ticket(secret, Ticket(**fields, not_after_unix_s=1 << 40, nonce=b"0" * 16))  # type: ignore[arg-type]


FOREIGN: dict[str, Any] = {
    "nothing": (),
    "a token that nobody gave": (("authorization", "Bearer " + "x" * 40),),
    "proofs by another secret": (
        (PROOF_KEY, call_proof(OTHER, "reasoner")),
        *member_metadata(OTHER, "boot"),
        *ticket_metadata(ticket(OTHER)),
    ),
}


@pytest.mark.parametrize("role", list(RULES))
async def test_who_shows_nothing_or_something_else_is_refused(
    role: str, model: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: set[str] = set()
    kind = type(make_server())
    add = kind.add_generic_rpc_handlers

    def add_and_tell(server: Any, handlers: Any) -> None:
        served.update(name for handler in handlers for name in handler._method_handlers)
        add(server, handlers)

    monkeypatch.setattr(kind, "add_generic_rpc_handlers", add_and_tell)
    async with serving(role, model, tmp_path) as address, make_channel(address) as channel:
        assert served == set(RULES[role])
        for what, metadata in FOREIGN.items():
            for name, rule in RULES[role].items():
                call = channel.stream_stream(name)(metadata=metadata, timeout=10)
                found = await REFUSED[rule](call)
                assert found is None, (what, name, found)


async def _before_anything_is_read(call: Any) -> str | None:
    """Nothing is sent: who would read first waits for it until the time is over."""
    return await _ends_with_refusal(call)


async def _by_its_message(call: Any) -> str | None:
    await call.write(registry_pb2.AttachRequest(hello=registry_pb2.AttachRequest.Hello()).SerializeToString())
    return await _ends_with_refusal(call)


async def _ends_with_refusal(call: Any) -> str | None:
    error = error_from_rpc(
        grpc.aio.AioRpcError(await call.code(), (), await call.trailing_metadata(), await call.details(), ""),
        "",
    )
    return None if isinstance(error, PermissionRefused) else repr(error)


async def _by_a_nack(call: Any) -> str | None:
    hello = Hello(fingerprint="0" * 32, boot_id="boot", ticket=ticket(OTHER), lanes=())
    request = transfer_pb2.ConnectRequest(message=message_to_proto(hello))
    await call.write(request.SerializeToString())
    answer = transfer_pb2.ConnectResponse.FromString(await call.read())
    if not isinstance(message_from_proto(answer.message), Nack):
        return repr(answer)
    return None if await call.read() is grpc.aio.EOF else "it goes on"


async def _not_at_all(call: Any) -> str | None:
    await call.write(health_pb2.HealthCheckRequest().SerializeToString())
    answer = await call.read()
    call.cancel()
    return None if answer is not grpc.aio.EOF else "no answer"


async def _as_unknown(call: Any) -> str | None:
    await call.write(b"")
    code = await call.code()
    return None if code is grpc.StatusCode.UNIMPLEMENTED else str(code)


REFUSED = {
    NOT_OFFERED: _as_unknown,
    TOKEN_FIRST: _before_anything_is_read,
    PROOF_FIRST: _before_anything_is_read,
    SECRET_IN_MESSAGE: _by_its_message,
    TICKET_IN_MESSAGE: _by_a_nack,
    NOTHING: _not_at_all,
}


async def test_a_service_of_a_former_release_is_known_by_its_hello(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows nothing before, and waits for its turn in the lobby."""
    monkeypatch.setattr(attach, "member_metadata", lambda secret, boot_id: ())
    async with World(tmp_path, tokens=_some_tokens(tmp_path)) as world:
        (encoder,) = (each for each in world.app.cluster.members if each.identity.name == "encoder-0")
        await world.hosted["encoder-0"].kill()
        await world.until(lambda: world.app.cluster.service("encoder-0") is None)
        assert "attachment ended" in encoder.last_loss


def _some_tokens(folder: Path) -> Path:
    file = folder / "tokens.toml"
    file.write_text(f'[[token]]\nsha256 = "{digest(TOKEN)}"\n')
    return file
