"""Whole links of the transfer benchmark: two processes, gRPC between them, offers and acks included."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from bench._transfer_lanes import MIB, ROOT, make_block
from kv_transfer.base import LinkConfig, LocalEnd
from kv_transfer.block import Block, seal_block
from kv_transfer.link import Link
from kv_transfer.memory import DictStore
from tandem.core.blocks import BlockHeader, BlockKey
from tandem.core.ids import Epoch
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.transfer import LaneKind
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.gen.tandem.v1 import transfer_pb2_grpc
from tandem.wire.transfer import ClientControlChannel, ServerControlChannel

BLOCKS_IN_FLIGHT = 8
BLOCK_BYTES = 8 * MIB
_SECRET = b"a secret for a benchmark"
_TIMEOUT_S = 30.0


class _Recycler:
    """A sink whose buffers are touched and used again, as a store's pool would be."""

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []

    def have(self, key: BlockKey, layer_checksums: Sequence[int]) -> bool:
        """See `BlockSink`."""
        return False

    def reserve(self, header: BlockHeader) -> torch.Tensor:
        """See `BlockSink`."""
        return self._free.pop() if self._free else torch.zeros(header.payload_bytes, dtype=torch.uint8)

    def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """See `BlockSink`."""
        self._free.append(buffer)

    def release(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """See `BlockSink`."""
        self._free.append(buffer)


def link_rates(repetitions: int) -> Iterator[tuple[str, list[float]]]:
    """Metric and rates in GB/s of each lane kind."""
    for kind in (LaneKind.GLOO, LaneKind.SHM):
        command = [sys.executable, "-m", "bench._transfer_links", kind.value]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            try:
                address = json.loads(child.stdout.readline())
                yield f"link_{kind.value}_8x8MiB", asyncio.run(_measure(address, kind, repetitions))
            finally:
                child.terminate()


async def _measure(address: str, kind: LaneKind, repetitions: int) -> list[float]:
    channel = make_channel(address)
    link = Link(
        ClientControlChannel(channel),
        hello=_end("encoder-0", _ticket()),
        sink=DictStore(),
        source=None,
        config=LinkConfig(lanes=(kind,)),
        initiator=True,
    )
    blocks = list(_blocks())
    rates = []
    async with link:
        for repetition in range(repetitions + 1):
            start = time.perf_counter()
            # Each block is a send of its own, as an encoder's are.
            results = await asyncio.gather(*(link.send([block], timeout_s=_TIMEOUT_S) for block in blocks))
            seconds = time.perf_counter() - start
            assert all(result.ok for each in results for result in each), results
            if repetition:  # the first touches the receiver's buffers
                rates.append(len(blocks) * BLOCK_BYTES / seconds / 1e9)
    await channel.close(0.5)
    return rates


def _blocks() -> Iterator[Block]:
    template = make_block(BLOCK_BYTES)
    for number in range(BLOCKS_IN_FLIGHT):
        header = template.header
        renamed = replace(header, key=BlockKey(header.key.stream, number))
        yield seal_block(renamed, template.payload.clone())


def _ticket() -> bytes:
    ticket = Ticket(
        pair_id="bench",
        epoch=Epoch(1),
        encoder_id="encoder-0",
        reasoner_id="reasoner-0",
        not_after_unix_s=int(time.time()) + 600,
        nonce=secrets.token_bytes(16),
    )
    return sign_ticket(_SECRET, ticket)


def _end(node_id: str, ticket: bytes = b"") -> LocalEnd:
    return LocalEnd(
        node_id=node_id,
        fingerprint="0" * 32,
        boot_id=f"boot-{node_id}",
        cluster_secret=_SECRET,
        ticket=ticket,
    )


class _Servicer(transfer_pb2_grpc.TransferServiceServicer):
    def __init__(self, kind: LaneKind) -> None:
        self._config = LinkConfig(lanes=(kind,))

    async def Connect(self, request_iterator: Any, context: Any) -> None:
        link = Link(
            ServerControlChannel(context),
            hello=_end("reasoner-0"),
            sink=_Recycler(),
            source=None,
            config=self._config,
            initiator=False,
        )
        try:
            await link.start()
            await link.closed
        finally:
            await link.close("the call has ended")


async def _serve(kind: LaneKind) -> None:
    server = make_server()
    transfer_pb2_grpc.add_TransferServiceServicer_to_server(_Servicer(kind), server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    print(json.dumps(address), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(LaneKind(sys.argv[1])))
