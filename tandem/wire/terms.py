"""Terms of elected orchestrators: signed, sent with every call to a service, and never going back there.

A leader that was frozen while another took over may wake up between its own look at the clock and its next
call. No check of its own can prevent that; the services can: each remembers the highest term that it was
shown, and refuses calls of a lower one. The proof keeps others from showing a term that would shut the leader
out. Where there is no election the term is 0 and nothing is sent.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from typing import Any

import grpc

from tandem.core.errors import PermissionRefused, TandemError, WrongState
from tandem.wire.gen.tandem.v1 import encoder_pb2, reasoner_pb2
from tandem.wire.status import abort_with

TERM_KEY = "tandem-term"
"""Metadata of calls to services."""
SERVICES = (
    encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
    reasoner_pb2.DESCRIPTOR.services_by_name["ReasonerService"].full_name,
)
"""What only the orchestrator calls."""
_MAX_DIGITS = 19


def sign_term(secret: bytes, term: int) -> str:
    """``TERM.PROOF``; empty for 0."""
    return f"{term}.{_proof(secret, str(term))}" if term else ""


def read_term(secret: bytes, text: str) -> int:
    """The term in `text`; 0 where it is empty. Raises PermissionRefused when its proof is wrong."""
    if not text:
        return 0
    digits, _, proof = text.partition(".")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_DIGITS
    if not is_number or not hmac.compare_digest(_proof(secret, digits).encode(), proof.encode()):
        raise PermissionRefused("the term of that orchestrator is not signed with the cluster secret")
    return int(digits)


def _proof(secret: bytes, digits: str) -> str:
    return hmac.new(secret, b"tandem/term\0" + digits.encode(), hashlib.sha256).hexdigest()


class TermGuard:
    """The highest term that this process was shown. Owned by the event loop."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._known = ""
        self.highest = 0

    def check(self, text: str) -> None:
        """Remember the term of a caller.

        Raises:
            WrongState: another orchestrator was elected since.
            PermissionRefused: it has no valid proof.
        """
        if text == self._known:  # as nearly always
            return
        term = read_term(self._secret, text)
        if term < self.highest:
            raise WrongState(f"an orchestrator of term {term} leads no more: term {self.highest} has begun")
        self._known, self.highest = text, term


class Asked(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Asks before each call of some services, and refuses it with the error that is raised."""

    def __init__(self, services: Collection[str], check: Callable[[Mapping[str, str | bytes]], None]) -> None:
        """`check` is given the call's metadata."""
        self._prefixes = tuple(f"/{name}/" for name in services)
        self._check = check

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, or one that refuses it."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefixes):
            return handler
        try:
            self._check(dict(handler_call_details.invocation_metadata or ()))
        except TandemError as error:
            return _refusal(handler, error)
        return handler


def guarded(guard: TermGuard) -> Asked:
    """The interceptor of a service."""

    def check(metadata: Mapping[str, str | bytes]) -> None:
        text = metadata.get(TERM_KEY, "")
        guard.check(text if isinstance(text, str) else "")

    return Asked(SERVICES, check)


def _refusal(handler: Any, error: TandemError) -> Any:
    async def refuse(_: Any, context: Any) -> None:
        await abort_with(context, error)

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(refuse, handler.request_deserializer, handler.response_serializer)
