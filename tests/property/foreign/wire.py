"""What comes over connections and is no call: headers, frames, tickets, tokens, control messages of pairs."""

from __future__ import annotations

import hashlib
import hmac
import struct

import xxhash
from google.protobuf.message import DecodeError

from kv_transfer.base import LocalEnd
from kv_transfer.header import decode_header, encode_header
from kv_transfer.lanes.base import LaneBroken
from kv_transfer.lanes.gloo_device import decode_address, encode_address
from kv_transfer.lanes.meet import prove_nonce
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import FrameClass, FrameHeader, decode_frame_header, encode_frame_header
from kv_transfer.protocol.handshake import accept_ack, judge_hello
from kv_transfer.protocol.incoming import IncomingBook, Reserved
from kv_transfer.protocol.outgoing import OutgoingBook
from orchestrator.access import caller_of, digest, parse_tokens
from orchestrator.tokens import check_token, make_nonce, resume_token
from tandem.core import transfer
from tandem.core.errors import TandemError, error_from_code
from tandem.core.ids import Epoch, StreamId
from tandem.core.tickets import Ticket, sign_ticket, verify_ticket
from tandem.core.tracing import checked
from tandem.core.transfer import Direction, LaneKind
from tandem.wire.gen.tandem.v1 import transfer_pb2, types_pb2
from tandem.wire.proof import call_proof, check_call
from tandem.wire.status import error_from_proto, error_to_proto
from tandem.wire.terms import TermGuard, sign_term
from tandem.wire.transfer import message_from_proto, message_to_proto
from tests.property.foreign.parser import Form, Parser

SECRET = b"a secret of sixteen bytes and more"
NOW_S = 1_700_000_000
STREAM = StreamId("gate")
NONCE = make_nonce()
TOKENS = f'[[token]]\nsha256 = "{digest("x" * 20)}"\ntenant = "acme"\nrights = ["ask"]\n'
_HEADER_PREFIX, _HEADER = struct.Struct("<4sHHI"), random_block(1).header


def text_of(data: bytes) -> str:
    """As gRPC and files give it: no byte that is no character."""
    return data.decode(errors="replace")


def unwrap_sealed(data: bytes) -> bytes:
    """The map in a block header or in the head of a file."""
    return data[12 : 12 + struct.unpack_from("<I", data, 8)[0]]


def wrap_header(body: bytes) -> bytes:
    """A block header around a map."""
    data = _HEADER_PREFIX.pack(b"TKVB", 3, 0, len(body)) + body
    return data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def _sealed_header(data: bytes) -> bytes:
    if len(data) < 20:
        return data
    length = min(struct.unpack_from("<I", data, 8)[0], len(data) - 20)
    body = data[:8] + struct.pack("<I", length) + data[12 : 12 + length]
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def _frames() -> list[bytes]:
    numbers = {"epoch": 1, "lane_epoch": 2, "transfer_id": 3, "attempt": 0, "seq": 4, "offset": 5, "block": 0}
    return [
        encode_frame_header(FrameHeader(frame_class=kind, flags=0, valid_bytes=6, **numbers))
        for kind in FrameClass
    ]


def _sealed_frame(data: bytes) -> bytes:
    body = data[:56].ljust(56, b"\0")
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


def ticket() -> Ticket:
    """One that is valid at `NOW_S`."""
    return Ticket(
        pair_id="e.r",
        epoch=Epoch(7),
        encoder_id="e",
        reasoner_id="r",
        not_after_unix_s=NOW_S,
        nonce=bytes(16),
    )


TICKET = sign_ticket(SECRET, ticket())


def _sealed_ticket(data: bytes) -> bytes:
    signed = data[:-32]
    return signed + hmac.new(SECRET, b"tandem/ticket\0" + signed, hashlib.sha256).digest()


GRANT = transfer.Grant(
    transfer_id=1,
    attempt=1,
    lane_epoch=1,
    frame_class=FrameClass.M,
    blocks=(transfer.BlockGrant(index=0, layers=(0, 1)),),
    have=(1,),
    refused=(),
)


def _control() -> list[bytes]:
    messages: list[transfer.ControlMessage] = [
        transfer.Hello(
            fingerprint=_HEADER.fingerprint,
            boot_id="boot",
            ticket=TICKET,
            lanes=(transfer.LaneOffer(kind=LaneKind.GLOO, token=""),),
        ),
        transfer.HelloAck(
            fingerprint=_HEADER.fingerprint, boot_id="boot", lanes=(LaneKind.GLOO,), shm_proof=bytes(32)
        ),
        transfer.Nack(transfer_id=1, code=transfer.NackCode.BUSY, message="full", retry_after_s=1.0),
        transfer.LaneOpen(direction=Direction.FORWARD, lane_epoch=1, kind=LaneKind.GLOO),
        transfer.LaneBroken(direction=Direction.FORWARD, lane_epoch=1, reason="gone"),
        transfer.StoreSet(direction=Direction.FORWARD, lane_epoch=1, key="k", value=b"v"),
        transfer.Offer(transfer_id=1, headers=(_HEADER, random_block(2).header), timeout_s=5.0),
        GRANT,
        transfer.Ack(transfer_id=1, published=(0,)),
        transfer.Cancel(transfer_id=1, reason="late"),
        transfer.Fetch(request_id=1, stream=STREAM, numbers=(1, 2), timeout_s=1.0),
        transfer.FetchRefused(request_id=1, code="not_found", message="no"),
        transfer.Heartbeat(sequence=3),
        transfer.Bye(reason="over"),
    ]
    return [message_to_proto(message).SerializeToString() for message in messages]


def _parse_control(data: bytes) -> object:
    """Read, and judged by what it is for: a hello by the handshake, the rest by books with an offer open."""
    message = message_from_proto(transfer_pb2.ControlMessage.FromString(data))
    local = LocalEnd(
        node_id="r",
        fingerprint=_HEADER.fingerprint,
        layout=_HEADER.layout,
        boot_id="here",
        cluster_secret=SECRET,
        ticket=TICKET,
    )
    incoming = IncomingBook(
        Direction.FORWARD, lambda offer, index: Reserved(), credit_bytes=1 << 20, max_pending=4
    )
    incoming.on_lane_up(1, FrameClass.L)
    outgoing = OutgoingBook(Direction.FORWARD)
    outgoing.offer((_HEADER, random_block(2).header), 0.0, 5.0)
    match message:
        case transfer.Hello():
            return judge_hello(message, local, now_unix_s=NOW_S, can_use=lambda offer: True)
        case transfer.HelloAck():
            return accept_ack(message, local, [transfer.LaneOffer(kind=LaneKind.GLOO, token="")], ticket())
        case transfer.Offer():
            done = incoming.on_offer(message, 0.0)
            incoming.expire(1e9)
            assert len(incoming) <= 1
            return done
        case transfer.Cancel():
            return incoming.on_cancel(message.transfer_id, message.reason)
        case transfer.Grant():
            return outgoing.on_grant(message, 1)
        case transfer.Ack():
            outgoing.on_grant(GRANT, 1)
            return outgoing.on_ack(message)
        case transfer.Nack():
            return outgoing.on_nack(message)
        case transfer.FetchRefused():
            return error_from_code(message.code, message.message, message.retry_after_s)
    return message


def _parse_term(data: bytes) -> object:
    guard = TermGuard(SECRET)
    guard.check(sign_term(SECRET, 5))
    guard.check(text_of(data))
    return guard.highest


WIRE: dict[str, Parser] = {
    "block header": Parser(
        lambda: [encode_header(random_block(number).header) for number in range(3)],
        decode_header,
        seal=_sealed_header,
        form=Form.MSGPACK,
        unwrap=unwrap_sealed,
        wrap=wrap_header,
    ),
    "frame header": Parser(_frames, decode_frame_header, seal=_sealed_frame),
    "ticket": Parser(lambda: [TICKET], lambda data: verify_ticket(SECRET, data, NOW_S), seal=_sealed_ticket),
    "resume token": Parser(
        lambda: [resume_token(SECRET, STREAM, NONCE).encode()],
        lambda data: check_token(SECRET, STREAM, text_of(data), NONCE),
        least_deep=0,
    ),
    "proof of a call": Parser(
        lambda: [call_proof(SECRET, "encoder-0", "boot").encode()],
        lambda data: check_call(call_proof(SECRET, "encoder-0", "boot"), text_of(data)),
        least_deep=0,
    ),
    "bearer token": Parser(
        lambda: [b"Bearer xxxxxxxxxxxxxxxxxxxx"],
        lambda data: caller_of(parse_tokens(TOKENS, "f"), text_of(data)),
        least_deep=0,
    ),
    "term of a leader": Parser(
        lambda: [sign_term(SECRET, 5).encode(), sign_term(SECRET, 2**62).encode()],
        _parse_term,
        form=Form.TEXT,
        least_deep=0,
    ),
    "trace context": Parser(
        lambda: [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        lambda data: checked(text_of(data)),
        least_deep=0,
    ),
    "control message": Parser(
        _control, _parse_control, (TandemError, DecodeError), form=transfer_pb2.ControlMessage
    ),
    "address of a Gloo listener": Parser(
        lambda: [encode_address(("127.0.0.1", 4711)), encode_address(("::1", 1))],
        decode_address,
        (LaneBroken,),
        form=Form.TEXT,
    ),
    "name of a nonce file": Parser(
        lambda: [b"tandem-" + b"0" * 24 + b".nonce"],
        lambda data: prove_nonce("/dev/shm", text_of(data)),
        least_deep=0,
    ),
    "error of a peer": Parser(
        lambda: [error_to_proto(TandemError("no", retry_after_s=1.0)).SerializeToString()],
        lambda data: error_from_proto(types_pb2.Error.FromString(data)),
        (DecodeError,),
        form=types_pb2.Error,
    ),
}
