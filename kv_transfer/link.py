"""Shell. One link: handshake, heartbeats, sending and fetching blocks, and an end that frees everything.

One link serves one pair for one epoch. Made in a running event loop; all methods belong to its thread. The
two ends are alike except that the initiator speaks first and orders lanes. The story: `docs/transfer.md`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from kv_transfer.base import (
    BlockSink,
    BlockSource,
    ControlChannel,
    LinkClosed,
    LinkConfig,
    LocalEnd,
    SendResult,
)
from kv_transfer.block import Block
from kv_transfer.engine import Engine
from kv_transfer.fetching import FetchDesk, FetchServer
from kv_transfer.greeting import greet, welcome
from kv_transfer.lane_ends import MakeLane
from kv_transfer.lanes.make import make_lane as make_real_lane
from kv_transfer.outbox import Outbox
from kv_transfer.protocol.actions import Settle
from kv_transfer.protocol.handshake import Agreement
from kv_transfer.protocol.liveness import Liveness
from kv_transfer.sending import send_blocks
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import (
    DeadlineExceeded,
    Internal,
    TandemError,
    Unavailable,
    WrongState,
    error_from_code,
)
from tandem.core.ids import StreamId
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.tickets import Ticket
from tandem.core.transfer import (
    Bye,
    ControlMessage,
    Direction,
    Fetch,
    FetchRefused,
    Heartbeat,
    LaneKind,
)

log = logging.getLogger(__name__)
_TICK_S = 0.1


class Link:
    """A transfer link to one peer."""

    def __init__(
        self,
        channel: ControlChannel,
        *,
        hello: LocalEnd,
        sink: BlockSink,
        source: BlockSource | None,
        config: LinkConfig | None = None,
        initiator: bool,
        clock: Clock = monotonic_clock,
        make_lane: MakeLane = make_real_lane,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._telemetry = telemetry
        self._channel = channel
        self._local = hello
        self._sink = sink
        self._config = config or LinkConfig()
        self._initiator = initiator
        self._clock = clock
        self._make_lane = make_lane
        self._closed: asyncio.Future[LinkClosed] = asyncio.get_running_loop().create_future()
        self._agreement: Agreement | None = None
        self._engine: Engine | None = None
        self._fetches = FetchDesk(hello.layout, self._config.fetch_bytes)
        self._outbox = Outbox(
            channel,
            self._config.heartbeat_s * self._config.heartbeat_misses,
            lambda error: self._end(error.message, error),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = FetchServer(source, self._send, self._outbox.put)
        self._ending: asyncio.Task[None] | None = None
        self._liveness = Liveness(clock(), self._config.heartbeat_s, self._config.heartbeat_misses)

    @property
    def closed(self) -> asyncio.Future[LinkClosed]:
        """Resolves when the link has ended and holds nothing any more. May be awaited by many."""
        return asyncio.shield(self._closed)

    @property
    def ticket(self) -> Ticket:
        """The pair's ticket; known once `start` has returned."""
        return self._agreed().ticket

    @property
    def peer_boot_id(self) -> str:
        """Boot id of the peer's process; known once `start` has returned."""
        return self._agreed().peer_boot_id

    @property
    def lane_kinds(self) -> dict[Direction, LaneKind]:
        """What carries each direction now."""
        return dict(self._engine.lanes.kinds) if self._engine is not None else {}

    async def start(self) -> None:
        """Shake hands and open both lanes.

        Raises Incompatible, PermissionRefused, WrongState (the ticket's epoch has passed), LimitExceeded,
        Unavailable or DeadlineExceeded; the link is closed then.
        """
        if self._ending is not None or self._engine is not None:
            raise WrongState("a link is started once")
        try:
            async with asyncio.timeout(self._config.handshake_timeout_s):
                meet = greet if self._initiator else welcome
                self._agreement = await meet(self._channel, self._local, self._config)
            if self._ending is not None:
                raise Unavailable("the link was closed during the handshake")
            self._run(self._agreement)
            await self._lanes_open()
        except TimeoutError:
            await self._fail_start(DeadlineExceeded("the peer did not answer the handshake in time"))
        except TandemError as error:
            await self._fail_start(error)
        except BaseException:
            self._end("the start was cancelled", Unavailable("the start was cancelled"))
            raise

    async def send(self, blocks: Sequence[Block], *, timeout_s: float) -> list[SendResult]:
        """Send blocks; one result each, in order, once the peer has published it or will not.

        Never raises for a block's sake; see `SendResult.error`. Cancelling gives up what is not published.
        """
        return await self._send(blocks, timeout_s)

    async def fetch(self, stream: StreamId, numbers: Sequence[int], *, timeout_s: float) -> list[Block]:
        """Blocks that the peer holds, in the order asked for, every byte verified.

        Raises NotFound or DataLost when the peer does not hold one, DeadlineExceeded, Unavailable.
        """
        if self._engine is None or self._ending is not None:
            raise Unavailable("the link is not open")
        request_id = self._fetches.open(stream, numbers)
        self._outbox.put(
            Fetch(request_id=request_id, stream=stream, numbers=tuple(numbers), timeout_s=timeout_s)
        )
        return await self._fetches.wait(request_id, timeout_s)

    async def close(self, reason: str) -> None:
        """End the link in order; returns when nothing is held any more. Idempotent."""
        self._end(reason, None)
        await self.closed

    async def __aenter__(self) -> Link:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close("done" if value is None else f"{type(value).__name__}")

    # -- start and end --

    def _agreed(self) -> Agreement:
        if self._agreement is None:
            raise WrongState("the link has not shaken hands")
        return self._agreement

    def _run(self, agreement: Agreement) -> None:
        self._liveness.heard(self._clock())
        self._engine = Engine(
            agreement,
            fingerprint=self._local.fingerprint,
            initiator=self._initiator,
            sink=self._sink,
            fetches=self._fetches,
            config=self._config,
            send=self._outbox.put,
            fail=lambda error: self._end(error.message, error),
            clock=self._clock,
            make_lane=self._make_lane,
            telemetry=self._telemetry,
        )
        for run in (self._read, self._tick):
            self._tasks.add(asyncio.create_task(run(), name=f"link-{run.__name__}"))
        self._outbox.start()
        self._engine.lanes.start()

    async def _lanes_open(self) -> None:
        assert self._engine is not None
        up: asyncio.Future[Any] = asyncio.ensure_future(self._engine.lanes.all_up.wait())
        ended: asyncio.Future[Any] = self._closed
        budget_s = self._config.lane_open_timeout_s * (len(self._agreed().lanes) + 1)
        try:
            await asyncio.wait([up, ended], timeout=budget_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._closed.done():
            raise self._closed.result().error or Unavailable(self._closed.result().reason)
        if not self._engine.lanes.all_up.is_set():
            raise DeadlineExceeded("no lane could be opened in time")

    async def _fail_start(self, error: TandemError) -> None:
        self._end(error.message, error)
        await self.closed
        raise error

    def _end(self, reason: str, error: TandemError | None) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._finish(reason, error), name="link-end")

    async def _finish(self, reason: str, error: TandemError | None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close()
        cause = error or Unavailable(f"the link was closed: {reason}")
        self._fetches.close(cause)
        await self._outbox.close(Bye(reason=reason[:200]), min(1.0, self._config.close_timeout_s))
        if self._engine is not None:
            await self._engine.close(cause)
        try:
            async with asyncio.timeout(self._config.close_timeout_s):
                await self._channel.close()
        except Exception:
            log.exception("the control stream did not close")
        self._closed.set_result(LinkClosed(reason=reason, error=error))

    # -- the two tasks --

    async def _read(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                self._liveness.heard(self._clock())
                self._handle(message)
            self._end("the peer is gone", Unavailable("the control stream ended without a goodbye"))
        except TandemError as error:
            self._end(error.message, error)
        except Exception as error:
            log.exception("a control message could not be handled")
            self._end("internal error", Internal(f"{type(error).__name__} while handling a message"))

    def _handle(self, message: ControlMessage) -> None:
        match message:
            case Heartbeat():
                pass
            case Bye():
                self._end(f"the peer says: {message.reason}", None)
            case Fetch():
                self._server.serve(message)
            case FetchRefused():
                error = error_from_code(message.code, message.message, message.retry_after_s)
                self._fetches.refuse(message.request_id, error)
            case _:
                assert self._engine is not None
                self._engine.handle(message)

    async def _tick(self) -> None:
        assert self._engine is not None
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = self._clock()
            self._engine.tick()
            beat = self._liveness.beat(now_s)
            if beat is not None:
                self._outbox.put(beat)
            if self._liveness.is_dead(now_s):
                silent_s = self._liveness.silent_s(now_s)
                self._end("the peer is silent", Unavailable(f"the peer was silent for {silent_s:.1f} s"))

    # -- blocks --

    async def _send(self, blocks: Sequence[Block], timeout_s: float, request_id: int = 0) -> list[SendResult]:
        engine = self._engine

        async def offer(batch: Sequence[Block], patience_s: float) -> list[Settle]:
            if engine is None or self._ending is not None:
                gone = Unavailable("the link is not open")
                return [Settle(transfer_id=0, index=i, error=gone) for i in range(len(batch))]
            return await engine.offer(batch, patience_s, request_id)

        return await send_blocks(blocks, timeout_s, offer=offer, config=self._config, clock=self._clock)
