"""Proof of the cluster secret in every call to an encoder or reasoner: only their orchestrator commands them.

The proof is an HMAC over the service's name and its start, in the metadata of the call. It holds for one
start of one service; over TLS nobody else sees it. No clock is in it: a machine whose clock is wrong goes
on. Transfer pairs prove themselves by tickets (`tandem.core.tickets`), attaching services in their hello
(`tandem.wire.attach`); both show something in the call's metadata too, so that they need not wait in the
lobby (`tandem.wire.lobby`) where nobody is known.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import grpc

from tandem.core.errors import PermissionRefused, TandemError
from tandem.core.logs import seldom
from tandem.core.tickets import verify_ticket
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.calls import CallingChannel
from tandem.wire.status import abort_with

PROOF_KEY = "tandem-proof"
MEMBER_KEY = "tandem-member"
"""Of calls to the orchestrator by whoever knows the secret."""
TICKET_KEY = "tandem-ticket-bin"
"""Of calls that begin a transfer pair: its ticket."""

log = seldom(__name__)


def call_proof(secret: bytes, service: str, boot_id: str = "") -> str:
    """What shows one start of a service, by its name, that the caller knows the secret.

    `boot_id` is empty for a service that attached to no orchestrator: nobody was told of its start.
    """
    message = "|".join(("call", service, boot_id)).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def check_call(expected: str, proof: str) -> None:
    """Raises `PermissionRefused` unless `proof` is the one `expected`."""
    if not proof:
        raise PermissionRefused("only the orchestrator of the cluster may call this service")
    if not hmac.compare_digest(expected.encode(), proof.encode(errors="replace")):
        raise PermissionRefused("the call does not show the cluster secret of this service")


class ProvenChannel(CallingChannel):
    """To one start of one service: all its calls carry the proof."""

    def __init__(
        self, address: str, secret: bytes, service: str, boot_id: str = "", tls: TlsFiles = NO_TLS
    ) -> None:
        proof = ((PROOF_KEY, call_proof(secret, service, boot_id)),)
        super().__init__(address, tls, lambda: proof)


class RequireProof(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls to a server that carry no proof, before anything of them is read."""

    def __init__(self, proof: str, besides: Sequence[str] = ()) -> None:
        """`proof`: of `call_proof`; `besides`: full names of services that need none."""
        self._proof = proof
        self._besides = tuple(f"/{service}/" for service in besides)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler, or one that refuses."""
        if not handler_call_details.method.startswith(self._besides):
            try:
                check_call(self._proof, value_of(handler_call_details.invocation_metadata, PROOF_KEY))
            except TandemError as error:
                return refusing(error, handler_call_details.method)
        return await continuation(handler_call_details)


def member_metadata(secret: bytes, boot_id: str) -> tuple[tuple[str, str], ...]:
    """What shows an orchestrator, before a message is read, that its caller knows the cluster secret."""
    return ((MEMBER_KEY, f"{boot_id}.{_member_proof(secret, boot_id)}"),)


def is_member(secret: bytes, metadata: Any) -> bool:
    """True for the metadata of who knows the secret."""
    boot_id, _, proof = value_of(metadata, MEMBER_KEY).rpartition(".")
    return hmac.compare_digest(_member_proof(secret, boot_id).encode(), proof.encode(errors="replace"))


def _member_proof(secret: bytes, boot_id: str) -> str:
    return hmac.new(secret, f"member|{boot_id}".encode(), hashlib.sha256).hexdigest()


def ticket_metadata(ticket: bytes) -> grpc.aio.Metadata:
    """What shows the other end of a transfer pair, before a message is read, that it is one."""
    return grpc.aio.Metadata((TICKET_KEY, ticket))


def has_ticket(secret: bytes, metadata: Any, acceptor: str, now_unix_s: float) -> bool:
    """True for the metadata of a pair's initiator that may connect to `acceptor` now."""
    shown = next((value for name, value in metadata or () if name == TICKET_KEY), b"")
    try:
        return verify_ticket(secret, bytes(shown), now_unix_s).reasoner_id == acceptor
    except (TandemError, TypeError):
        return False


def value_of(metadata: Any, key: str) -> str:
    """The text under `key` in a call's metadata; empty: there is none."""
    for name, value in metadata or ():
        if name == key:
            return value if isinstance(value, str) else ""
    return ""


def refusing(error: TandemError, method: str) -> Any:
    """A handler that ends any call with `error` and reads nothing of it; logs that once a second at most."""

    async def refuse(request_iterator: Any, context: Any) -> None:
        log.warning("%r of %s is refused: %s", method[:100], context.peer(), error.message)
        await abort_with(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
