"""Shell: who calls the front door, by the token in the call; reads their file again when it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health

from orchestrator.access import Caller, Tokens, caller_of, parse_tokens
from orchestrator.held_calls import HeldCalls
from tandem.core.errors import InvalidInput, TandemError
from tandem.wire.gen.tandem.v1 import registry_pb2
from tandem.wire.proof import refusing, value_of

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 4 << 20
_LOOK_S = 1.0
"""Between looks at the file: a token that was taken out of it is good no longer than this, for new calls and
for open ones."""
REGISTRY = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
OPEN = (REGISTRY, health.SERVICE_NAME)
"""What proves the cluster secret by itself, and what is told to everybody."""
_OPEN = tuple(f"/{name}/" for name in OPEN)


class Doorkeeper(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls without a good token before anything of them is read; says who the others are.

    Without a file everybody may do everything. Raises `InvalidInput` for a file that cannot be used at the
    start; one that becomes so later is logged, and what it said before stays.
    """

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._looked_s = clock()
        self._stamp = self._stat()
        self._tokens: Tokens | None = None if file is None else read_tokens(file)
        self._calls = HeldCalls(self._look, _LOOK_S)

    def caller(self, context: Any) -> Caller:
        """Who calls. Raises `PermissionRefused`."""
        return self._caller(context.invocation_metadata())

    def is_admin(self, context: Any) -> bool:
        """True for a call with a token that may do everything; without tokens nobody is."""
        metadata = context.invocation_metadata()
        if self._file is None or not value_of(metadata, "authorization"):
            return False
        return self._caller(metadata).is_admin

    def knows(self, metadata: Any) -> bool:
        """True for the metadata of a call with a good token; without tokens nobody is known."""
        try:
            return self._file is not None and bool(self._caller(metadata))
        except TandemError:
            return False

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler, or one that refuses."""
        if handler_call_details.method.startswith(_OPEN):
            return await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata
        try:
            caller = self._caller(metadata)
        except TandemError as error:
            return refusing(error, handler_call_details.method)
        handler = await continuation(handler_call_details)
        if self._file is None:
            return handler
        return self._calls.holding(handler, value_of(metadata, "authorization"), caller)

    def _caller(self, metadata: Any) -> Caller:
        self._look()
        return caller_of(self._tokens, value_of(metadata, "authorization"))

    def _look(self) -> None:
        now_s = self._clock()
        if self._file is None or now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        if (stamp := self._stat()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = read_tokens(self._file)
            log.info("the tokens were read anew: %d", len(self._tokens))
            self._calls.end_unless(self._is_still)
        except InvalidInput as error:
            log.error("the tokens stay as they were: %s", error)

    def _is_still(self, authorization: str, caller: Caller) -> bool:
        """True when a token is what it was when its call was let in, whatever it is named by now."""
        try:
            now = caller_of(self._tokens, authorization)
        except TandemError:
            return False
        return (now.tenant, now.rights) == (caller.tenant, caller.rights)

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError:
            found = None
        return (found.st_mtime_ns, found.st_ino, found.st_size) if found else (0, 0, 0)


def read_tokens(file: Path) -> Tokens:
    """What a file of tokens says. Raises `InvalidInput` when it cannot be read or used."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidInput(f"--tokens: {file} is over {MAX_FILE_BYTES} bytes")
        return parse_tokens(data.decode(), f"--tokens {file}")
    except OSError as error:
        raise InvalidInput(f"--tokens: cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"--tokens: {file} is not UTF-8") from error
