"""Every parser of bytes that come from elsewhere: valid examples, how it is called, what it may refuse with.

Where a checksum or signature comes before the parsing, `seal` makes it right again after the bytes were
changed: whoever sends them can do the same.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

import xxhash
from google.protobuf.message import DecodeError, Message

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.make import MediaKind
from encoder_svc.decode.source import RawChunk
from encoder_svc.ledger import SyncPoint
from encoder_svc.messages import item_from_proto, opening_from_proto
from encoder_svc.resume import GeometryRun, ResumeHeader, decode_resume_header
from kv_transfer.header import decode_header, encode_header
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import FrameClass, FrameHeader, decode_frame_header, encode_frame_header
from orchestrator.access import caller_of, digest, parse_tokens
from orchestrator.carried import carry, read_carried
from orchestrator.intake import check_media
from orchestrator.journal import Record, record_to_json
from orchestrator.limits import check_stream_id
from orchestrator.quotas import parse_quotas
from orchestrator.registry import check_drain, check_hello
from orchestrator.tokens import check_token, make_nonce, resume_token
from orchestrator.watching import check_watching
from reasoner_svc.asking import check_opening
from reasoner_svc.store.disk.format import (
    FILE_HEAD_BYTES,
    FileHead,
    decode_file_head,
    decode_record_head,
    encode_file_head,
    encode_record,
)
from reasoner_svc.store.disk.slots import Identity
from tandem.core import transfer
from tandem.core.errors import TandemError
from tandem.core.ids import Epoch, StreamId
from tandem.core.tickets import Ticket, sign_ticket, verify_ticket
from tandem.core.tracing import checked
from tandem.load.schedule import read_schedule
from tandem.load.workload import Workload
from tandem.wire.attach import attach_proof
from tandem.wire.gen.tandem.v1 import (
    client_pb2,
    encoder_pb2,
    reasoner_pb2,
    registry_pb2,
    transfer_pb2,
    types_pb2,
)
from tandem.wire.proof import call_proof, check_call
from tandem.wire.transfer import message_from_proto, message_to_proto
from tests.unit.encoder_svc import media

SECRET = b"a secret of sixteen bytes and more"
NOW_S = 1_700_000_000
STREAM = StreamId("gate")


@dataclass(frozen=True)
class Parser:
    """One of them."""

    seeds: Callable[[], list[bytes]]
    parse: Callable[[bytes], object]
    refuses: tuple[type[BaseException], ...] = (TandemError,)
    seal: Callable[[bytes], bytes] = bytes
    is_slow: bool = False
    """It decodes video: fewer examples of it in the short form."""


def _headers() -> list[bytes]:
    return [encode_header(random_block(number).header) for number in range(3)]


def _sealed_header(data: bytes) -> bytes:
    if len(data) < 20:
        return data
    length = min(struct.unpack_from("<I", data, 8)[0], len(data) - 20)
    body = data[:8] + struct.pack("<I", length) + data[12 : 12 + length]
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def _frames() -> list[bytes]:
    header = FrameHeader(
        frame_class=FrameClass.M,
        flags=0,
        epoch=1,
        lane_epoch=2,
        transfer_id=3,
        attempt=0,
        seq=4,
        offset=5,
        valid_bytes=6,
        block=0,
    )
    return [encode_frame_header(header)]


def _sealed_frame(data: bytes) -> bytes:
    return data[:56].ljust(56, b"\0") + struct.pack(
        "<Q", xxhash.xxh3_64_intdigest(data[:56].ljust(56, b"\0"))
    )


def _ticket() -> Ticket:
    return Ticket(
        pair_id="e.r",
        epoch=Epoch(7),
        encoder_id="e",
        reasoner_id="r",
        not_after_unix_s=NOW_S,
        nonce=bytes(16),
    )


def _sealed_ticket(data: bytes) -> bytes:
    signed = data[:-32]
    return signed + hmac.new(SECRET, b"tandem/ticket\0" + signed, hashlib.sha256).digest()


def _file_heads() -> list[bytes]:
    header = random_block(1).header
    identity = Identity(STREAM, header.fingerprint, header.layout)
    return [encode_file_head(FileHead(identity, 3, False))]


def _sealed_file_head(data: bytes) -> bytes:
    if len(data) < 20:
        return data
    end = 12 + min(struct.unpack_from("<I", data, 8)[0], FILE_HEAD_BYTES)
    body = data[:end]
    return (body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))).ljust(FILE_HEAD_BYTES, b"\0")


def _records() -> list[bytes]:
    return [encode_record(random_block(2).header, b"reps", 5)[1]]


def _record() -> Record:
    return Record(
        stream_id=STREAM,
        nonce=NONCE,
        epoch=3,
        media_kind=1,
        sample_fps=2.0,
        nominal_fps=0.0,
        safe_position=7,
        checkpoint_us=5,
        watermark_us=9,
        reasoner="reasoner-0",
        decoder_header=b"header",
        gaps=(),
    )


def _sealed_record(data: bytes) -> bytes:
    body = data[32:]
    message = b"\0".join((b"tandem/record", STREAM.encode(), body))
    return hmac.new(SECRET, message, hashlib.sha256).digest() + body


def _control() -> list[bytes]:
    header = random_block(1).header
    messages = [
        transfer.Offer(transfer_id=1, headers=(header,), timeout_s=5.0),
        transfer.Bye(reason="over"),
    ]
    return [message_to_proto(message).SerializeToString() for message in messages]


def _parse_control(data: bytes) -> object:
    return message_from_proto(transfer_pb2.ControlMessage.FromString(data))


def _resume_headers() -> list[bytes]:
    geometry = random_block(1).header.geometry
    header = ResumeHeader(
        kind="h264",
        point=SyncPoint(100, 200),
        start_header=b"sps",
        origin_us=3,
        runs=(GeometryRun(0, geometry),),
    )
    return [header.encode()]


def _messages(*messages: Message) -> Callable[[], list[bytes]]:
    return lambda: [message.SerializeToString() for message in messages]


def _parse_watch(data: bytes) -> object:
    request = client_pb2.WatchRequest.FromString(data)
    if request.WhichOneof("event") == "open":
        check_media(request.open.media)
        check_watching(request.open.watching, request.open.stream_id)
        check_stream_id(request.open.stream_id)
    return request


def _parse_encode(data: bytes) -> object:
    request = encoder_pb2.EncodeRequest.FromString(data)
    return opening_from_proto(request) if request.WhichOneof("event") == "open" else item_from_proto(request)


def _parse_hello(data: bytes) -> object:
    hello = registry_pb2.AttachRequest.Hello.FromString(data)
    # Whoever attaches knows the secret: what it says is looked at nevertheless.
    hello.proof = attach_proof(SECRET, hello.name, hello.role, hello.build.boot_id, hello.address)
    return check_hello(hello, SECRET)


def _parse_schedule(data: bytes) -> object:
    return read_schedule(data.decode(errors="replace").splitlines(), Workload())


def _schedules() -> list[bytes]:
    stream = {"kind": "stream", "stream": "s0", "start_s": 0.0, "end_s": 1.0, "tenant": "acme"}
    question = {"kind": "question", "stream": "s0", "at_s": 0.5, "text": "What?"}
    return ["\n".join(map(json.dumps, (stream, question))).encode()]


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="replace"))


def _token_files() -> list[bytes]:
    return [f'[[token]]\nsha256 = "{digest("x" * 20)}"\ntenant = "acme"\nrights = ["ask"]\n'.encode()]


@functools.cache
def _video(kind: MediaKind) -> bytes:
    return media.encode(kind, 6, gop=3, b_frames=0)


def _parse_video(kind: MediaKind) -> Callable[[bytes], object]:
    limits = MediaLimits(max_pixels=1 << 16, max_side=1024)

    def parse(data: bytes) -> object:
        source = media.open_source(kind, limits=limits)
        third = max(len(data) // 3, 1)
        chunks = [RawChunk(at, data[at : at + third]) for at in range(0, len(data), third)]
        return media.run(source, chunks)

    return parse


NONCE = make_nonce()
PARSERS: dict[str, Parser] = {
    "block header": Parser(_headers, decode_header, seal=_sealed_header),
    "frame header": Parser(_frames, decode_frame_header, seal=_sealed_frame),
    "ticket": Parser(
        lambda: [sign_ticket(SECRET, _ticket())],
        lambda data: verify_ticket(SECRET, data, NOW_S),
        seal=_sealed_ticket,
    ),
    "resume token": Parser(
        lambda: [resume_token(SECRET, STREAM, NONCE).encode()],
        _text(lambda text: check_token(SECRET, STREAM, text, NONCE)),
    ),
    "record that a client carries": Parser(
        lambda: [carry(SECRET, STREAM, json.dumps(record_to_json(_record())).encode())],
        lambda data: read_carried(SECRET, STREAM, data),
        seal=_sealed_record,
    ),
    "proof of a call": Parser(
        lambda: [call_proof(SECRET, "encoder-0", "boot").encode()],
        _text(lambda text: check_call(call_proof(SECRET, "encoder-0", "boot"), text)),
    ),
    "bearer token": Parser(
        lambda: [b"Bearer xxxxxxxxxxxxxxxxxxxx"],
        _text(lambda text: caller_of(parse_tokens(_TOKENS, "f"), text)),
    ),
    "trace context": Parser(
        lambda: [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], _text(checked)
    ),
    "control message": Parser(_control, _parse_control, (TandemError, DecodeError)),
    "message of a client": Parser(
        _messages(
            client_pb2.WatchRequest(
                open=client_pb2.WatchRequest.Open(
                    stream_id="gate", media=types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES)
                )
            ),
            client_pb2.WatchRequest(chunk=types_pb2.Chunk(offset=5, data=b"abc")),
        ),
        _parse_watch,
        (TandemError, DecodeError),
    ),
    "message to an encoder": Parser(
        _messages(
            encoder_pb2.EncodeRequest(
                open=encoder_pb2.EncodeRequest.Open(
                    stream_id="gate",
                    reasoner_name="r",
                    media=types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES),
                )
            ),
            encoder_pb2.EncodeRequest(picture=types_pb2.Picture(sequence=3, data=b"abc")),
        ),
        _parse_encode,
        (TandemError, DecodeError),
    ),
    "message to a reasoner": Parser(
        _messages(reasoner_pb2.OpenStreamRequest(stream_id="gate", epoch=3)),
        lambda data: check_opening(reasoner_pb2.OpenStreamRequest.FromString(data)),
        (TandemError, DecodeError),
    ),
    "hello of a service": Parser(
        _messages(
            registry_pb2.AttachRequest.Hello(name="e", role="encoder", address="127.0.0.1:1", protocol=1)
        ),
        _parse_hello,
        (TandemError, DecodeError),
    ),
    "request to drain": Parser(
        _messages(registry_pb2.DrainServiceRequest(name="e", boot_id="b", proof="p")),
        lambda data: check_drain(registry_pb2.DrainServiceRequest.FromString(data), SECRET, NOW_S),
        (TandemError, DecodeError),
    ),
    "decoder header": Parser(_resume_headers, lambda data: decode_resume_header(data, "h264")),
    "head of a disk file": Parser(_file_heads, decode_file_head, seal=_sealed_file_head),
    "record on disk": Parser(_records, decode_record_head),
    "schedule": Parser(_schedules, _parse_schedule),
    "file of tokens": Parser(_token_files, _text(lambda text: parse_tokens(text, "file"))),
    "file of quotas": Parser(
        lambda: [b"[default]\nstreams = 3\n[tenants.acme]\nweight = 2.0\n"],
        _text(parse_quotas),
        (TandemError, ValueError),
    ),
    **{
        f"media chunks, {kind.value}": Parser(
            functools.partial(lambda kind: [_video(kind)], kind), _parse_video(kind), is_slow=True
        )
        for kind in media.CONTAINERS
    },
}
_TOKENS = _token_files()[0].decode()
