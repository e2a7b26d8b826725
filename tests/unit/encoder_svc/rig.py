"""A reasoner that only stores, and a caller of the encoder, over real gRPC and real links."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import grpc
import torch
from PIL import Image

from encoder_svc.app import EncoderApp
from encoder_svc.config import EncoderConfig
from kv_transfer.base import LinkConfig, LocalEnd
from kv_transfer.block import Block
from kv_transfer.link import Link
from tandem.core.blocks import BlockHeader, BlockKey
from tandem.core.errors import DataLost, LimitExceeded
from tandem.core.ids import Epoch, StreamId
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.transfer import LaneKind
from tandem.vlm.embedder import Embedder
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc, transfer_pb2_grpc, types_pb2
from tandem.wire.proof import ProvenChannel
from tandem.wire.status import error_from_rpc
from tandem.wire.transfer import ServerControlChannel
from tests.unit.encoder_svc.media import picture

SECRET = b"0123456789abcdef"
END = encoder_pb2.EncodeRequest.End()


def png(index: int) -> bytes:
    """A small PNG that tells its index."""
    buffer = io.BytesIO()
    Image.fromarray(picture(index)).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache
def model(source: str = "dummy:tiny-timestamped") -> VisionLanguageModel:
    """One model for all tests of a process."""
    return load_model(source)


class Shelf:
    """Sink and source of the storing reasoner."""

    def __init__(self) -> None:
        self.blocks: dict[BlockKey, Block] = {}
        self.full = False
        self.refusal: Exception | None = None

    def have(self, key: BlockKey, layer_checksums: Sequence[int]) -> bool:
        held = self.blocks.get(key)
        return held is not None and held.header.layer_checksums == tuple(layer_checksums)

    def reserve(self, header: BlockHeader) -> torch.Tensor:
        if self.refusal is not None:
            raise self.refusal
        if self.full:
            raise LimitExceeded("full", retry_after_s=0.05)
        return torch.empty(header.payload_bytes, dtype=torch.uint8)

    def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        self.blocks[header.key] = Block(header, buffer)

    def release(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        pass

    def read(self, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
        try:
            return [self.blocks[BlockKey(stream, number)] for number in numbers]
        except KeyError as error:
            raise DataLost(f"{error} is not held") from None

    def of(self, stream: str) -> list[Block]:
        """A stream's blocks in order."""
        keys = sorted(key for key in self.blocks if key.stream == stream)
        return [self.blocks[key] for key in keys]


class StoringReasoner(transfer_pb2_grpc.TransferServiceServicer):
    """Accepts links and stores what comes."""

    def __init__(self, fingerprint: str, lanes: tuple[LaneKind, ...]) -> None:
        self.shelf = Shelf()
        self.links: list[Link] = []
        self._config = LinkConfig(lanes=lanes)
        self._local = LocalEnd(
            node_id="reasoner",
            fingerprint=fingerprint,
            boot_id=secrets.token_hex(8),
            cluster_secret=SECRET,
        )
        self._server = make_server()
        self.address = ""

    async def Connect(self, request_iterator: object, context: Any) -> None:
        link = Link(
            ServerControlChannel(context),
            hello=self._local,
            sink=self.shelf,
            source=self.shelf,
            config=self._config,
            initiator=False,
        )
        self.links.append(link)
        try:
            await link.start()
            await asyncio.shield(link.closed)
        finally:
            await link.close("over")

    async def start(self, listen: str = "127.0.0.1:0") -> None:
        transfer_pb2_grpc.add_TransferServiceServicer_to_server(self, self._server)
        self.address = bind(self._server, listen)
        await self._server.start()

    async def stop(self) -> None:
        for link in self.links:
            await link.close("the reasoner stops")
        await self._server.stop(0.5)


class Tickets:
    """Signs tickets with rising epochs."""

    def __init__(self) -> None:
        self._epoch = 0

    def next(self) -> bytes:
        self._epoch += 1
        ticket = Ticket(
            pair_id="pair",
            epoch=Epoch(self._epoch),
            encoder_id="encoder",
            reasoner_id="reasoner",
            not_after_unix_s=int(time.time()) + 60,
            nonce=secrets.token_bytes(16),
        )
        return sign_ticket(SECRET, ticket)


class Call:
    """One Encode call; responses are collected as they come."""

    def __init__(self, stub: Any) -> None:
        self._call = stub.Encode()
        self.progress: list[Any] = []
        self.refused: list[Any] = []
        self.opened: Any = None
        self.ended: Any = None
        self.gaps: list[Any] = []
        self.header = b""
        self._task = asyncio.create_task(self._read())
        # A test may not care how a call ended.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _read(self) -> None:
        while True:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                return
            event = response.WhichOneof("event")
            if event == "opened":
                self.opened = response.opened
            elif event == "refused":
                self.refused.append(response.refused)
            elif event == "progress":
                self._note(response.progress)
            else:
                self.ended = response.ended
                self._note(response.ended.progress)

    def _note(self, progress: Any) -> None:
        self.progress.append(progress)
        self.gaps += progress.gaps
        if progress.HasField("decoder_header"):
            self.header = progress.decoder_header

    async def send(self, **event: Any) -> None:
        await self._call.write(encoder_pb2.EncodeRequest(**event))

    async def until(self, holds: Any, timeout_s: float = 30.0) -> None:
        """Wait until `holds(self)`."""
        async with asyncio.timeout(timeout_s):
            while not holds(self):
                if self._task.done():
                    await self.over()
                    assert holds(self), "the call is over"
                    return
                await asyncio.sleep(0.01)

    async def over(self, timeout_s: float = 60.0) -> None:
        """Wait for the end of the call; raises its typed error."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._task
                code = await self._call.code()
                if code is not grpc.StatusCode.OK:
                    raise grpc.aio.AioRpcError(
                        code,
                        await self._call.initial_metadata(),
                        await self._call.trailing_metadata(),
                        await self._call.details(),
                    )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "encode") from None

    async def done_writing(self) -> None:
        await self._call.done_writing()

    def cancel(self) -> None:
        self._call.cancel()
        self._task.cancel()


async def send_pictures(call: Call, indices: range, period_us: int = 1_000_000) -> None:
    """PNG pictures with these sequences, one every `period_us`."""
    for index in indices:
        await call.send(
            picture=types_pb2.Picture(
                sequence=index,
                pts_us=index * period_us,
                format=types_pb2.PICTURE_FORMAT_PNG,
                data=png(index),
            )
        )


class Rig:
    """An encoder, a storing reasoner, and tickets."""

    def __init__(self, app: EncoderApp, reasoner: StoringReasoner, stub: Any) -> None:
        self.app = app
        self.reasoner = reasoner
        self.tickets = Tickets()
        self.stub = stub
        self._epoch = 0

    async def open(
        self,
        stream: str,
        kind: int,
        *,
        sample_fps: float = 0.0,
        resume: Any = None,
        **fields: Any,
    ) -> Call:
        """An Encode call whose open message was sent."""
        self._epoch += 1
        call = Call(self.stub)
        opening: dict[str, Any] = {
            "stream_id": stream,
            "epoch": self._epoch,
            "media": types_pb2.MediaOptions(kind=kind, sample_fps=sample_fps),
            "reasoner_address": self.reasoner.address,
            "reasoner_name": "reasoner",
            "ticket": self.tickets.next(),
            "resume": resume,
        }
        await call.send(open=encoder_pb2.EncodeRequest.Open(**(opening | fields)))
        return call


@asynccontextmanager
async def make_rig(
    source: str = "dummy:tiny-timestamped",
    lanes: tuple[LaneKind, ...] = (LaneKind.SHM,),
    reasoner_fingerprint: str = "",
    embedder: Embedder | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A running encoder and reasoner in this process."""
    vlm = model(source)
    reasoner = StoringReasoner(reasoner_fingerprint or vlm.fingerprint, lanes)
    await reasoner.start()
    config = EncoderConfig(
        lanes=tuple(lane.value for lane in lanes), **({"drain_s": 5.0, "decode_in": "inside"} | settings)
    )
    app = EncoderApp(config, vlm, SECRET, embedder)
    address = await app.start()
    async with ProvenChannel(address, SECRET, config.name) as channel:
        try:
            yield Rig(app, reasoner, encoder_pb2_grpc.EncoderServiceStub(channel))
        finally:
            await app.stop()
            await reasoner.stop()
