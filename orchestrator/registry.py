"""Shell: RegistryService. A service attaches with a proof of the cluster secret and stays while it beats."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

from orchestrator.cluster import Cluster
from orchestrator.doorkeeper import Doorkeeper
from orchestrator.membership import Identity, Role
from orchestrator.service import Service
from tandem.core.errors import InvalidInput, PermissionRefused, TandemError, WrongState
from tandem.core.ids import is_valid_id
from tandem.wire.accepting import accept, accepted_proof
from tandem.wire.attach import attach_proof, build_info, drain_proof, make_boot_id
from tandem.wire.channel import parse_address
from tandem.wire.gen.tandem.v1 import registry_pb2, registry_pb2_grpc, types_pb2
from tandem.wire.status import abort_with
from tandem.wire.terms import sign_term

HELLO_TIMEOUT_S = 10.0
DRAIN_REQUEST_LIFE_S = 600
"""A request to drain that says to be valid for longer is refused: somebody may have kept it."""


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Keeps the cluster's membership up to date."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        heartbeat_s: float,
        lease_s: float,
        doorkeeper: Doorkeeper | None = None,
        build: types_pb2.BuildInfo | None = None,
    ) -> None:
        """`build`: of this orchestrator; None makes one."""
        self._cluster = cluster
        self._build = build or build_info(make_boot_id())
        self._doorkeeper = doorkeeper
        self._times = {"heartbeat_ms": round(heartbeat_s * 1000), "lease_ms": round(lease_s * 1000)}

    async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[registry_pb2.AttachResponse]:
        """One service, from hello to its end."""
        requests = aiter(request_iterator)
        try:
            identity, hello, version = await self._hello(requests)
            self._cluster.fence.check()
            service = self._cluster.attach(identity, hello.build, hello.model)
        except TandemError as error:
            await abort_with(context, error)
        attachment = service.attachments
        try:
            secret = self._cluster.secret
            accepted = registry_pb2.AttachResponse.Accepted(
                **self._times,
                term=sign_term(secret, self._cluster.fence.term),
                protocol=version,
                proof=accepted_proof(secret, hello, version),
                build=self._build,
            )
            yield registry_pb2.AttachResponse(accepted=accepted)
            async for request in requests:
                if service.gone.is_set:
                    # Silent for too long: it must attach anew, so that nothing of before is trusted.
                    break
                beat = request.heartbeat
                details = dict(beat.details)
                self._cluster.heartbeat(identity, beat.streams, details, leaving=beat.leaving)
                yield registry_pb2.AttachResponse(beat=registry_pb2.AttachResponse.Beat(number=beat.number))
                if service.drain_ms is not None and not beat.leaving:
                    drain = registry_pb2.AttachResponse.Drain(grace_ms=service.drain_ms)
                    yield registry_pb2.AttachResponse(drain=drain)
        finally:
            self._ended(service, attachment)

    async def DrainService(
        self, request: registry_pb2.DrainServiceRequest, context: Any
    ) -> registry_pb2.DrainServiceResponse:
        """Ask a service to leave."""
        try:
            if self._doorkeeper is None or not self._doorkeeper.is_admin(context):
                check_drain(request, self._cluster.secret, time.time())
            self._cluster.fence.check()
            present = self._cluster.service(request.name)
            if present is not None and present.identity.boot_id != request.boot_id:
                raise WrongState(f"{request.name} was started again since; ask anew if that one should leave")
            service, has_successor = self._cluster.drain(request.name, request.grace_ms)
        except TandemError as error:
            await abort_with(context, error)
        return registry_pb2.DrainServiceResponse(
            streams=self._cluster.placed[request.name],
            has_successor=has_successor,
            boot_id=service.identity.boot_id,
        )

    async def _hello(self, requests: Any) -> tuple[Identity, registry_pb2.AttachRequest.Hello, int]:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                request = await anext(requests)
        except (StopAsyncIteration, TimeoutError):
            raise WrongState("no hello came") from None
        if request.WhichOneof("event") != "hello":
            raise WrongState("the first message must be hello")
        identity, version = check_hello(request.hello, self._cluster.secret)
        return identity, request.hello, version

    def _ended(self, service: Service, attachment: int) -> None:
        current = self._cluster.service(service.identity.name)
        if current is service and service.attachments == attachment:
            self._cluster.departed(service.identity, "its attachment ended")


def check_drain(request: registry_pb2.DrainServiceRequest, secret: bytes, now_unix_s: float) -> None:
    """Raises `PermissionRefused` unless whoever asks knows the secret, now."""
    expected = drain_proof(secret, request.name, request.boot_id, request.grace_ms, request.not_after_unix_s)
    if not hmac.compare_digest(expected.encode(), request.proof.encode()):
        raise PermissionRefused("this needs the cluster secret: name its file with --secret-file")
    if not now_unix_s <= request.not_after_unix_s <= now_unix_s + DRAIN_REQUEST_LIFE_S:
        raise PermissionRefused("the request is out of date: do the clocks agree?")


def check_hello(hello: registry_pb2.AttachRequest.Hello, secret: bytes) -> tuple[Identity, int]:
    """Who a service is, and the version of the protocol to speak with it.

    Raises a typed error when the proof is wrong or a field cannot be used.
    """
    expected = attach_proof(secret, hello.name, hello.role, hello.build.boot_id, hello.address)
    if not hmac.compare_digest(expected.encode(), hello.proof.encode()):
        raise PermissionRefused(
            f"{hello.name[:64]!r} does not know the cluster secret; start it with its secret file"
        )
    version = accept(hello)
    if not is_valid_id(hello.name):
        raise InvalidInput(f"not a service name: {hello.name[:64]!r}")
    if hello.role not in set(Role):
        raise InvalidInput(f"not a role: {hello.role[:64]!r} (expected encoder or reasoner)")
    parse_address(hello.address)
    identity = Identity(
        name=hello.name,
        role=Role(hello.role),
        address=hello.address,
        boot_id=hello.build.boot_id,
        fingerprint=hello.model.fingerprint,
        pid=hello.build.pid,
    )
    return identity, version
