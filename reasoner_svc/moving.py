"""Shell. A stream that moves here: its blocks are fetched from the reasoner that leaves, and published.

The other reasoner serves them as it serves an encoder's window; here they land as if an encoder had sent
them. The newest notes come too, as many as stand in a view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from kv_transfer.base import LinkConfig, LocalEnd
from kv_transfer.block import Block
from kv_transfer.link import Link
from kv_transfer.no_sink import NoSink
from reasoner_svc.inbox import Inbox
from reasoner_svc.store.disk.errors import StreamHeld
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.store.spill import Spiller, TakenUp
from reasoner_svc.streams import StreamRecord
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import DataLost, DeadlineExceeded, InvalidInput, LimitExceeded, NotFound, WrongState
from tandem.core.ids import StreamId, notes_of
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.channel import make_channel
from tandem.wire.convert import range_from_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2
from tandem.wire.transfer import ClientControlChannel

log = logging.getLogger(__name__)

BATCH_BLOCKS = 16
FETCH_TIMEOUT_S = 30.0
ROOM_PATIENCE_S = 10.0
"""For room in the store while everything there is arriving or being read."""
MAX_MOVES = 2
"""Streams that move here at the same time; the others wait."""


class Holder(Protocol):
    """Who is asked for blocks."""

    async def fetch(self, stream: StreamId, numbers: Sequence[int], *, timeout_s: float) -> list[Block]:
        """See `Link.fetch`."""
        ...


class Notes(Protocol):
    """Who takes the notes that come."""

    def came(self, run: int, stream: StreamId, blocks: Sequence[Block], next_number: int) -> None:
        """Oldest first; new ones are numbered from `next_number` on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """This end of the link."""

    local: LocalEnd
    config: LinkConfig
    telemetry: Telemetry = NO_TELEMETRY
    tls: TlsFiles = NO_TLS


class Mover:
    """Brings streams here. Event loop only."""

    def __init__(
        self, inbox: Inbox, here: Here, notes: Notes, notes_tokens: int, clock: Clock = monotonic_clock
    ) -> None:
        """`notes` takes those that come, of at most `notes_tokens`."""
        self._notes, self._notes_tokens = notes, notes_tokens
        self._inbox = inbox
        self._here = here
        self._clock = clock
        self._turns = asyncio.Semaphore(MAX_MOVES)

    async def bring(
        self, record: StreamRecord, source: reasoner_pb2.OpenStreamRequest.Source, encoder: str
    ) -> None:
        """Fetch what `source` holds of an open stream and is not held here, and publish it.

        Raises a TandemError when that fails; what came until then is published, and should be closed.
        """
        end = source.next_block_number
        if record.frontier.next >= end:
            return
        notes: list[Block] = []
        for part in source.evicted:
            record.miss(range_from_proto(part))
        async with self._turns, self._connect(source) as link:
            await bring_all(self._inbox, link, record, end, source.blocks, encoder, self._clock)
            if source.last_note and self._notes_tokens:
                notes = await bring_notes(link, record.stream, source.last_note, self._notes_tokens)
                self._notes.came(record.run, record.stream, notes, source.last_note + 1)
        log.info("stream %s came from %s: %d blocks, %d notes",
                 record.stream, source.name, record.blocks, len(notes))  # fmt: skip

    @asynccontextmanager
    async def _connect(self, source: reasoner_pb2.OpenStreamRequest.Source) -> AsyncIterator[Link]:
        here = self._here
        local = LocalEnd(
            node_id=here.local.node_id,
            fingerprint=here.local.fingerprint,
            layout=here.local.layout,
            boot_id=here.local.boot_id,
            cluster_secret=here.local.cluster_secret,
            ticket=source.ticket,
        )
        async with make_channel(source.address, here.tls) as channel:
            control = ClientControlChannel(channel, here.local.cluster_secret)
            link = Link(
                control,
                hello=local,
                sink=NoSink(),
                source=None,
                config=here.config,
                initiator=True,
                telemetry=here.telemetry,
            )
            async with link:
                yield link


async def take_up(
    spiller: Spiller, stream: StreamId, recent_tokens: int, claim: Claim, *, moves: bool
) -> TakenUp:
    """See `Spiller.take_up`. Raises WrongState when a stream that `moves` is held in the same directory."""
    try:
        return await spiller.take_up(stream, recent_tokens, claim)
    except StreamHeld as error:
        if moves:
            raise WrongState(f"{error}: whoever has it lets go first, then it is opened here") from error
        raise


async def bring_all(
    inbox: Inbox, holder: Holder, record: StreamRecord, end: int, held: int, encoder: str, clock: Clock
) -> None:
    """Land the blocks before `end` that are not visible here, in order; what is gone there is skipped.

    `held` is how many visual blocks there are.
    """
    stream = record.stream
    if record.frontier.next == 0:
        await _land(inbox, record, await _held(holder, stream, [0]), 0, 1, encoder, clock)
    number = record.frontier.next
    if number < end:
        # Mostly blocks leave oldest first, and what is gone is found by halves. Where that cannot be, because
        # fewer lie behind the place that was found than are held, each is asked for.
        first = await _first_held(holder, stream, number, end)
        if end - first == held:
            inbox.skip(record, number, first)
            number = first
    while number < end:
        until = min(number + BATCH_BLOCKS, end)
        await _land(
            inbox,
            record,
            await _held(holder, stream, range(number, until)),
            number,
            until,
            encoder,
            clock,
        )
        number = until
    if record.frontier.next < end:
        raise DataLost(f"stream {stream!r} came up to block {record.frontier.next} of {end} only")


async def bring_notes(holder: Holder, stream: StreamId, last: int, tokens: int) -> list[Block]:
    """The newest notes up to number `last` that fit `tokens`, oldest first; the newest in any case.

    One that came to nothing has left a hole in the numbers. None older is asked for than one batch of which
    nothing is held.
    """
    newest: list[Block] = []
    while last > 0:
        first = max(last - BATCH_BLOCKS, 0) + 1
        try:
            found = await _held(holder, notes_of(stream), range(first, last + 1))
        except NotFound as error:  # a reasoner of a release that lends none: the stream moves all the same
            log.warning("the notes of stream %s stay behind: %s", stream, error)
            break
        for block in reversed(found):
            tokens -= block.header.tokens
            if newest and tokens < 0:
                return newest[::-1]
            newest.append(block)
        if not found:
            break
        last = first - 1
    return newest[::-1]


async def _first_held(holder: Holder, stream: StreamId, low: int, high: int) -> int:
    """The first number in [low, high) that is held, `high` when none is; those after it are held too."""
    if await _held(holder, stream, [low]):
        return low
    while low < high:
        middle = (low + high) // 2
        if await _held(holder, stream, [middle]):
            high = middle
        else:
            low = middle + 1
    return low


async def _held(holder: Holder, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
    """Those that are held, in order."""
    try:
        return await holder.fetch(stream, list(numbers), timeout_s=FETCH_TIMEOUT_S)
    except DataLost:
        if len(numbers) == 1:
            return []
    middle = len(numbers) // 2
    former = await _held(holder, stream, numbers[:middle])
    return former + await _held(holder, stream, numbers[middle:])


async def _land(
    inbox: Inbox,
    record: StreamRecord,
    blocks: Sequence[Block],
    start: int,
    end: int,
    encoder: str,
    clock: Clock,
) -> None:
    found = {block.key.number: block for block in blocks}
    for number in range(start, end):
        block = found.get(number)
        if block is None:
            inbox.skip(record, number, number + 1)
            continue
        if block.key.stream != record.stream:
            raise InvalidInput(f"a block of {block.key.stream!r} came for {record.stream!r}")
        await _land_one(inbox, record, block, encoder, clock)


async def _land_one(inbox: Inbox, record: StreamRecord, block: Block, encoder: str, clock: Clock) -> None:
    deadline_s = clock() + ROOM_PATIENCE_S
    while True:
        try:
            _, plan = inbox.take_room(block.header, encoder)
            break
        except LimitExceeded as error:
            if error.retry_after_s is None:
                raise
            if clock() > deadline_s:
                raise DeadlineExceeded(f"no room for block {block.key.number}: {error}") from error
            await asyncio.sleep(error.retry_after_s)
    try:
        plan.buffer.copy_(block.payload)
        inbox.land(record, plan)
    except BaseException:
        inbox.give_up(record, plan)
        raise
