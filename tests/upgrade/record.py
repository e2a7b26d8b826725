"""Records what a release says and writes, for the next one to be held to: `python -m tests.upgrade.record`.

Run in the tree of the release, with it alone on the path. Real services in one process watch a little video,
are asked, move a stream, and keep it on disk; every message that any of them sends over gRPC passes through
here. One of each shape is kept, with the protocol's descriptors and what lay on disk.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.message import Message
from grpc.aio._channel import Channel

import tandem
from orchestrator.app import Orchestrator
from orchestrator.config import OrchestratorConfig
from tandem.client import MediaKind, MediaOptions, Sampling, Workers
from tandem.commands.drain import ask_to_leave
from tandem.core.ids import Epoch
from tandem.core.standing import StandingQuestion
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.watching import Watching, WatchMode
from tandem.wire.gen.tandem.v1 import (
    client_pb2,
    encoder_pb2,
    reasoner_pb2,
    registry_pb2,
    transfer_pb2,
    types_pb2,
)
from tests.faults import inside
from tests.faults.run import Feed
from tests.integration.up_processes import h264

FILES = (types_pb2, client_pb2, encoder_pb2, reasoner_pb2, registry_pb2, transfer_pb2)
MAX_BYTES = 16_384
"""Larger messages are pictures."""
MOVED = "moved"
"""The stream that moves; `KEPT` lies on disk at the end."""
KEPT = "kept"
STANDING = StandingQuestion(question_id="standing", text="Is anything red?", expect="yes")
TICKET = Ticket(
    pair_id="encoder-0.reasoner-0",
    epoch=Epoch(7),
    encoder_id="encoder-0",
    reasoner_id="reasoner-0",
    not_after_unix_s=4_000_000_000,
    nonce=b"sixteen bytes ab",
)


class Recorder:
    """One message of each shape, by method and sender."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, ...], dict[str, str]] = {}

    def listen(self) -> None:
        """From now on to every call of this process."""
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            setattr(Channel, kind, self._listening(getattr(Channel, kind)))

    def _listening(self, made: Callable[..., Any]) -> Callable[..., Any]:
        def make(
            channel: Any, method: str, request_serializer: Any, response_deserializer: Any, *a: Any, **o: Any
        ) -> Any:
            def write(message: Message) -> bytes:
                self._keep(method, "caller", message)
                return bytes(request_serializer(message))

            def read(data: bytes) -> Any:
                message = response_deserializer(data)
                self._keep(method, "called", message)
                return message

            return made(channel, method, write, read, *a, **o)

        return make

    def _keep(self, method: str, sender: str, message: Message) -> None:
        data = message.SerializeToString(deterministic=True)
        key = (method, sender, *sorted(set(_shape(message, 2))))
        if method.startswith("/tandem.v1.") and len(data) <= MAX_BYTES and key not in self.kept:
            self.kept[key] = {
                "method": method,
                "sender": sender,
                "message": message.DESCRIPTOR.full_name,
                "bytes": base64.b64encode(data).decode(),
            }


def _shape(message: Message, depth: int, path: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{path}.{field.name}"
        yield name
        if depth and isinstance(value, Message):
            yield from _shape(value, depth - 1, name)


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Of the whole protocol."""
    found = descriptor_pb2.FileDescriptorSet()
    for module in FILES:
        module.DESCRIPTOR.CopyToProto(found.file.add())
    return found


async def record(folder: Path, work: Path) -> None:
    """Write everything of this release into `folder`; `work` is empty, and anybody's afterwards."""
    recorder = Recorder()
    recorder.listen()
    run_dir, data_dir = work / "run", work / "data"
    config = OrchestratorConfig(listen="127.0.0.1:0", run_dir=run_dir, encoders=0, reasoners=0)
    app = Orchestrator(config, lambda text: None)
    address = await app.start()
    services = {}
    for name in ("encoder-0", "reasoner-0", "reasoner-1"):
        make = (
            inside.encoder(name, app.secret_file)
            if name.startswith("encoder")
            else inside.reasoner(name, app.secret_file, data_dir=data_dir / name, fsync_s=0.05)
        )
        services[name] = make("127.0.0.1:0", "", address)
        await services[name].start()
    async with tandem.connect(address) as client:
        await _until_async(lambda: _ready(client, 3))
        await _talk(client, services, app.secret_file)
        await _talk_in_bytes(client)
        token = await _leave_on_disk(client)
    await app.stop()
    for service in services.values():
        await _stop(service)
    _write(folder, recorder, work, token)


async def _talk(client: Any, services: dict[str, Any], secret_file: Path) -> None:
    watching = Watching(mode=WatchMode.SEGMENT_NOTES, segment_units=2)
    async with client.watch(MediaKind.PICTURES, stream_id=MOVED, watching=watching) as stream:
        stream.stand(STANDING)
        thoughts = stream.thoughts()
        feed = Feed(stream, 0.02)
        for _ in range(8):
            await feed.push()
        await asyncio.wait_for(anext(thoughts), 60)
        short = Sampling(max_tokens=8)
        await stream.ask("What was shown?", sampling=short)
        await stream.ask("What was shown?", workers=Workers(count=2, max_tokens=4), sampling=short)
        await client.ask(MOVED, "And to others?", sampling=short)
        await stream.cancel(stream.pose("And now?", sampling=Sampling(max_tokens=64)).question_id)
        (summary,) = await client.streams()
        leaver = services[summary.reasoner]
        await ask_to_leave(client.address, summary.reasoner, secret_file, 0.0)
        await asyncio.wait_for(leaver.leave(), 20)
        for _ in range(4):
            await feed.push()
        await stream.ask("What was shown?", sampling=short)
        await stream.end(forget=True)


async def _talk_in_bytes(client: Any) -> None:
    media = MediaOptions(kind=MediaKind.H264_ANNEX_B, nominal_fps=4.0)
    async with client.watch(media, stream_id="bytes") as stream:
        for piece in h264(16, 4, 4):
            await stream.push_chunk(piece)
        await stream.ask("What was shown?", sampling=Sampling(max_tokens=8))
        await stream.end(forget=True)


async def _leave_on_disk(client: Any) -> str:
    watching = Watching(mode=WatchMode.SEGMENT_NOTES)
    async with client.watch(MediaKind.PICTURES, stream_id=KEPT, watching=watching) as stream:
        stream.stand(STANDING)
        feed = Feed(stream, 0.02)
        for _ in range(8):
            await feed.push()
        await stream.ask("What was shown?", sampling=Sampling(max_tokens=8))
        await _until(lambda: (stream.progress.durable_watermark_us or 0) >= 4_000_000)
        await asyncio.sleep(0.7)  # the journal is written twice a second
        token: str = stream.info.resume_token
        await stream.abandon()
    return token


def _write(folder: Path, recorder: Recorder, work: Path, token: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "protocol.binpb").write_bytes(descriptors().SerializeToString(deterministic=True))
    lines = [json.dumps(kept) for _, kept in sorted(recorder.kept.items())]
    (folder / "messages.jsonl").write_text("\n".join(lines) + "\n")
    secret = (work / "run/secret").read_bytes().strip()
    (folder / "secret").write_bytes(secret)
    (folder / "resume-token").write_text(token + "\n")
    (folder / "ticket.bin").write_bytes(sign_ticket(secret, TICKET))
    shutil.copy(work / "run/streams" / f"{KEPT}.json", folder / "journal.json")
    (stored,) = (found for found in (work / "data").glob(f"*/s-{KEPT}") if any(found.iterdir()))
    shutil.copytree(stored, folder / "stored", ignore=shutil.ignore_patterns("lock"))


async def _stop(service: Any) -> None:
    try:
        await service.stop(0.0)
    except TypeError:
        await service.stop()


async def _ready(client: Any, count: int) -> bool:
    services = (await client.status()).services
    return sum(service.state == "ready" for service in services) == count


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another task changes it
            await asyncio.sleep(0.02)


async def _until_async(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - other tasks change it
            await asyncio.sleep(0.05)


def main() -> None:
    """Into the folder that is named, or the one of this release."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "recorded" / tandem.__version__
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(record(folder, Path(work)))
    print(folder)


if __name__ == "__main__":
    main()
