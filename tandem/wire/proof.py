"""Proof of the cluster secret in every call to an encoder or reasoner: only their orchestrator commands them.

The proof is a time and an HMAC over it and the service's name, in the metadata of the call. It holds for
minutes and for one service; over TLS nobody else sees it. Transfer pairs prove themselves by tickets
(`tandem.core.tickets`), attaching services in their hello (`tandem.wire.attach`).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tandem.core.errors import PermissionRefused, TandemError
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.calls import CallingChannel
from tandem.wire.status import abort_with

PROOF_KEY = "tandem-proof"
PROOF_LIFE_S = 300
"""How far the clocks of two machines may be apart, and how long one that was kept can be used."""
_MAX_CHARS = 128
_TELL_S = 1.0
_told_s = [float("-inf")]
"""When a refusal was last logged: whoever tries without end must not fill a disk."""

log = logging.getLogger(__name__)


def call_proof(secret: bytes, service: str, unix_s: int) -> str:
    """What shows a service, by its name, that the caller knows the secret at `unix_s`."""
    return f"{unix_s}.{_mac(secret, service, unix_s)}"


def check_call(secret: bytes, service: str, proof: str, now_unix_s: float) -> None:
    """Raises `PermissionRefused` unless `proof` was made for this service, now, by who knows the secret."""
    when, dot, mac = proof[:_MAX_CHARS].partition(".")
    if not dot or not (when.isascii() and when.isdecimal()) or len(when) > len(str(1 << 63)):
        raise PermissionRefused("only the orchestrator of the cluster may call this service")
    expected = _mac(secret, service, int(when))
    if not hmac.compare_digest(expected.encode(), mac.encode(errors="replace")):
        raise PermissionRefused("the call does not show the cluster secret of this service")
    if abs(now_unix_s - int(when)) > PROOF_LIFE_S:
        raise PermissionRefused("the proof of the call is out of date: do the machines' clocks agree?")


def _mac(secret: bytes, service: str, unix_s: int) -> str:
    message = "|".join(("call", service, str(unix_s))).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


class ProvenChannel(CallingChannel):
    """To one service: all its calls carry a proof made when they begin."""

    def __init__(
        self,
        address: str,
        secret: bytes,
        service: str,
        tls: TlsFiles = NO_TLS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(address, tls, lambda: ((PROOF_KEY, call_proof(secret, service, int(wall()))),))


class RequireProof(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls to some of a server's services that carry no proof, before anything of them is read."""

    def __init__(self, secret: bytes, name: str, services: Sequence[str]) -> None:
        """`services`: full names of those that need it."""
        self._secret = secret
        self._name = name
        self._prefixes = tuple(f"/{service}/" for service in services)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler, or one that refuses."""
        if handler_call_details.method.startswith(self._prefixes):
            try:
                proof = value_of(handler_call_details.invocation_metadata, PROOF_KEY)
                check_call(self._secret, self._name, proof, time.time())
            except TandemError as error:
                return refusing(error, handler_call_details.method)
        return await continuation(handler_call_details)


def value_of(metadata: Any, key: str) -> str:
    """The text under `key` in a call's metadata; empty: there is none."""
    for name, value in metadata or ():
        if name == key:
            return value if isinstance(value, str) else ""
    return ""


def refusing(error: TandemError, method: str) -> Any:
    """A handler that ends any call with `error` and reads nothing of it; logs that once a second at most."""

    async def refuse(request_iterator: Any, context: Any) -> None:
        now_s = time.monotonic()
        if now_s - _told_s[0] > _TELL_S:
            _told_s[0] = now_s
            log.warning("%s of %s is refused: %s", method[:100], context.peer(), error.message)
        await abort_with(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
