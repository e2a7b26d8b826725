"""Shell: how an encoder or reasoner makes itself known to the orchestrator and stays known.

One call of `RegistryService.Attach` per service: hello with a proof of the cluster secret, then heartbeats.
When the call breaks it is opened again with back-off for as long as the service lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import math
import os
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from tandem import __version__
from tandem.core.errors import Incompatible, InvalidInput, NotLeader, PermissionRefused, TandemError
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.accepting import SPOKEN, check_accepted, orchestrator_version
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import registry_pb2, registry_pb2_grpc, types_pb2
from tandem.wire.proof import member_metadata
from tandem.wire.status import error_from_rpc
from tandem.wire.terms import TermGuard

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 1.0
_ACCEPT_S = 10.0
"""Longest wait for the answer to a hello."""
_MAX_SILENT = 4
_MIN_SILENCE_S = 2.0
"""An orchestrator that answers no heartbeat for its lease, and at least so long, is attached to anew."""


def make_boot_id() -> str:
    """A random id of this start of this process; a change tells others that it restarted."""
    return secrets.token_hex(8)


def build_info(boot_id: str) -> types_pb2.BuildInfo:
    """Version, boot and pid of this process."""
    return types_pb2.BuildInfo(version=__version__, boot_id=boot_id, pid=os.getpid())


def model_info(
    source: str, fingerprint: str, *, frames_per_unit: int, seconds_per_unit: float
) -> types_pb2.ModelInfo:
    """What others are told of a service's model."""
    return types_pb2.ModelInfo(
        source=source, fingerprint=fingerprint, native_fps=frames_per_unit / seconds_per_unit
    )


def attach_proof(secret: bytes, name: str, role: str, boot_id: str, address: str) -> str:
    """HMAC-SHA256 in hex that shows knowledge of the cluster secret without sending it."""
    message = "|".join(("attach", name, role, boot_id, address)).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def drain_proof(secret: bytes, name: str, boot_id: str, grace_ms: int, not_after_unix_s: int) -> str:
    """HMAC-SHA256 in hex that shows that whoever asks a service to leave knows the cluster secret.

    It holds for one start of the service: whoever kept the request cannot make the next one leave.
    """
    message = "|".join(("drain", name, boot_id, str(grace_ms), str(not_after_unix_s))).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceIdentity:
    """Who a service is."""

    name: str
    role: str
    """"encoder" or "reasoner"."""
    address: str
    boot_id: str
    model: types_pb2.ModelInfo


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """What a heartbeat says."""

    streams: int
    details: Mapping[str, str]


class Attachment:
    """Keeps one service attached to one orchestrator until `close`.

    Args:
        orchestrator: address of the orchestrator, host:port.
        secret: the cluster secret.
        identity: who this service is.
        load: called for each heartbeat.
        on_drain: awaited when the orchestrator asks to leave; its argument is the grace in seconds, 0: the
            service's own.
        tls: how the orchestrator is called; the files are read for each try.
        terms: remembers the term of the orchestrator; one of a former term is left again.
    """

    def __init__(
        self,
        orchestrator: str,
        secret: bytes,
        identity: ServiceIdentity,
        load: Callable[[], ServiceLoad],
        on_drain: Callable[[float], Awaitable[None]],
        *,
        tls: TlsFiles = NO_TLS,
        terms: TermGuard | None = None,
    ) -> None:
        self._orchestrator = orchestrator
        self._tls = tls
        self._secret = secret
        self._identity = identity
        self._load = load
        self._on_drain = on_drain
        self._terms = terms
        self._leader = ""
        """Where the next try goes, as an orchestrator that stands by said; empty: where it was named."""
        self._task: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._attached = self._was_attached = self.has_attached = False
        self._silent: list[grpc.aio.Channel] = []
        """Of calls that carry nothing any more, until another is accepted."""

    @property
    def is_attached(self) -> bool:
        """True while the orchestrator has this service on its list, as far as is known here."""
        return self._attached

    def leave(self) -> None:
        """Say from now on that this service is about to leave: its streams move, nothing new comes."""
        self._leaving.set()

    def start(self) -> None:
        """Begin attaching, in the background."""
        self._task = asyncio.create_task(self._keep_attached(), name="attach")

    async def close(self) -> None:
        """Leave: the orchestrator sees the call end and takes this service off its list."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_attached(self) -> None:
        backoff_s = _BACKOFF_FIRST_S
        try:
            while True:
                self._was_attached = False
                try:
                    await self._attach_once()
                    backoff_s = _BACKOFF_FIRST_S
                except (grpc.aio.AioRpcError, TandemError) as failure:
                    error = failure if isinstance(failure, TandemError) else self._typed(failure)
                    former, self._leader = self._leader, ""
                    if isinstance(error, NotLeader) and error.leader != former:
                        self._leader = error.leader
                    if self._was_attached or self._leader:
                        backoff_s = _BACKOFF_FIRST_S
                    # Invalid input: certificates that are being replaced.
                    is_ours = isinstance(error, PermissionRefused | InvalidInput | Incompatible)
                    level = logging.ERROR if is_ours else logging.WARNING
                    log.log(level, "not attached: %s; trying again in %.1f s", error, backoff_s)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
        finally:
            await self._drop_silent()

    def _typed(self, failure: grpc.aio.AioRpcError) -> TandemError:
        return error_from_rpc(failure, f"attaching to {self._target}")

    @property
    def _target(self) -> str:
        return self._leader or self._orchestrator

    async def _attach_once(self) -> None:
        """Until the call ends, or the orchestrator falls silent: then the call is kept for a while.

        One that was frozen must see the new attachment before the end of the old, or it would take this
        service for lost.
        """
        # A channel of its own for each try: one that failed waits longer and longer by itself.
        channel = make_channel(self._target, self._tls)
        heartbeat_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        hello, shown = self._hello(), member_metadata(self._secret, self._identity.boot_id)
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)
        call = stub.Attach(self._requests(hello, heartbeat_s), metadata=shown)
        is_silent = False
        try:
            await self._listen(call, hello, heartbeat_s)
        except TimeoutError:
            is_silent = self._was_attached
            log.warning("the orchestrator at %s is silent; attaching anew", self._target)
            self._leader = ""
        finally:
            self._attached = False
            heartbeat_s.cancel()  # the requests of a call that was refused wait for it
            if is_silent and len(self._silent) < _MAX_SILENT:
                self._silent.append(channel)
            else:
                call.cancel()
                await channel.close(None)

    async def _listen(
        self, call: Any, hello: registry_pb2.AttachRequest.Hello, heartbeat_s: asyncio.Future[float]
    ) -> None:
        """Raises TimeoutError when an orchestrator that answered heartbeats does so no more."""
        responses = aiter(call)
        silence_s = _ACCEPT_S
        lease_s = 0.0
        waiting: asyncio.Future[Any] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(anext(responses, None))
                # Not cancelled by the timeout: that would end the call.
                done, _ = await asyncio.wait({waiting}, timeout=None if math.isinf(silence_s) else silence_s)
                if not done:
                    raise TimeoutError
                response = waiting.result()
                event = response.WhichOneof("event") if response is not None else None
                if response is None:
                    return
                if event == "accepted" and not heartbeat_s.done():
                    version = check_accepted(response.accepted, self._secret, hello)
                    if self._terms is not None:
                        self._terms.check(response.accepted.term)
                    lease_s = max(response.accepted.lease_ms / 1000, _MIN_SILENCE_S)
                    silence_s = math.inf
                    heartbeat_s.set_result(max(response.accepted.heartbeat_ms, 50) / 1000)
                    self._attached = self._was_attached = self.has_attached = True
                    theirs = orchestrator_version(response.accepted)
                    log.info(
                        "attached to the orchestrator at %s (%s, protocol %d)", self._target, theirs, version
                    )
                    await self._drop_silent()
                elif event == "beat":
                    silence_s = lease_s
                elif event == "drain":
                    await self._on_drain(response.drain.grace_ms / 1000)
        finally:
            if waiting is not None and not waiting.done():
                waiting.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _drop_silent(self) -> None:
        channels, self._silent = self._silent, []
        for channel in channels:
            await channel.close(None)

    def _hello(self) -> registry_pb2.AttachRequest.Hello:
        who = self._identity
        return registry_pb2.AttachRequest.Hello(
            name=who.name,
            role=who.role,
            address=who.address,
            build=build_info(who.boot_id),
            model=who.model,
            proof=attach_proof(self._secret, who.name, who.role, who.boot_id, who.address),
            protocol=SPOKEN.lowest,
            newest_protocol=SPOKEN.newest,
            nonce=secrets.token_hex(16),
        )

    async def _requests(
        self, hello: registry_pb2.AttachRequest.Hello, heartbeat_s: asyncio.Future[float]
    ) -> AsyncIterator[registry_pb2.AttachRequest]:
        yield registry_pb2.AttachRequest(hello=hello)
        period_s = await heartbeat_s
        number = 0
        while True:
            number += 1
            load = self._load()
            leaving = self._leaving.is_set()
            yield registry_pb2.AttachRequest(
                heartbeat=registry_pb2.AttachRequest.Heartbeat(
                    number=number, streams=load.streams, details=dict(load.details), leaving=leaving
                )
            )
            if leaving:
                await asyncio.sleep(period_s)
                continue
            with contextlib.suppress(TimeoutError):  # the news that it leaves does not wait for its turn
                async with asyncio.timeout(period_s):
                    await self._leaving.wait()
