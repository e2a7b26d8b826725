"""Every control message goes round through protobuf; nonsense is refused with a typed error."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.memory import random_block
from tandem.core import transfer as core
from tandem.core.errors import ErrorCode, InvalidInput
from tandem.core.ids import StreamId
from tandem.core.transfer import Direction, FrameClass, LaneKind, NackCode
from tandem.wire.gen.tandem.v1 import transfer_pb2 as pb
from tandem.wire.transfer import message_from_proto, message_to_proto
from tandem.wire.transfer_messages import MAX_LANES

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
text = st.text(max_size=40)
seconds = st.none() | st.floats(0, 1e6)
ways = st.sampled_from(Direction)
indices = st.lists(u32, max_size=5).map(tuple)
embeddings = st.sampled_from([b"", struct.pack("<2e", 0.6, -0.8)])
headers = st.builds(
    lambda number, embedding: replace(random_block(number).header, embedding=embedding),
    st.integers(0, 50),
    embeddings,
)

MESSAGES = {
    core.Hello: {
        "major": u32,
        "minor": u32,
        "fingerprint": text,
        "boot_id": text,
        "ticket": st.binary(max_size=50),
        "lanes": st.lists(
            st.builds(core.LaneOffer, kind=st.sampled_from(LaneKind), token=text), max_size=MAX_LANES
        ).map(tuple),
    },
    core.HelloAck: {
        "major": u32,
        "minor": u32,
        "fingerprint": text,
        "boot_id": text,
        "lanes": st.lists(st.sampled_from(LaneKind)).map(tuple),
        "shm_proof": st.binary(max_size=40),
    },
    core.Nack: {
        "transfer_id": u64,
        "code": st.sampled_from(NackCode),
        "message": text,
        "retry_after_s": seconds,
    },
    core.LaneOpen: {"direction": ways, "lane_epoch": u32, "kind": st.sampled_from(LaneKind)},
    core.LaneBroken: {"direction": ways, "lane_epoch": u32, "reason": text},
    core.StoreSet: {"direction": ways, "lane_epoch": u32, "key": text, "value": st.binary(max_size=300)},
    core.Offer: {
        "transfer_id": u64,
        "headers": st.lists(headers, max_size=4).map(tuple),
        "timeout_s": st.floats(0, 1e6),
        "request_id": u64,
    },
    core.Grant: {
        "transfer_id": u64,
        "attempt": u32,
        "lane_epoch": u32,
        "frame_class": st.sampled_from(FrameClass),
        "blocks": st.lists(st.builds(core.BlockGrant, index=u32, layers=indices), max_size=4).map(tuple),
        "have": indices,
        "refused": indices,
        "retry_after_s": seconds,
    },
    core.Ack: {"transfer_id": u64, "published": indices},
    core.Cancel: {"transfer_id": u64, "reason": text},
    core.Fetch: {
        "request_id": u64,
        "stream": st.just(StreamId("stream-1")),
        "numbers": st.lists(u64, max_size=5).map(tuple),
        "timeout_s": st.floats(0, 1e6),
    },
    core.FetchRefused: {
        "request_id": u64,
        "code": st.sampled_from([code.value for code in ErrorCode]),
        "message": text,
        "retry_after_s": st.none() | st.integers(1, 10_000).map(lambda ms: ms / 1000),
    },
    core.Heartbeat: {"sequence": u64},
    core.Bye: {"reason": text},
}


def test_the_table_is_complete() -> None:
    assert set(MESSAGES) == set(core.ControlMessage.__args__)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_messages_go_round(kind: type, data: st.DataObject) -> None:
    message = data.draw(st.builds(kind, **MESSAGES[kind]))
    encoded = message_to_proto(message).SerializeToString()
    assert message_from_proto(pb.ControlMessage.FromString(encoded)) == message


NONSENSE = [
    pb.ControlMessage(),
    pb.ControlMessage(nack=pb.Nack(transfer_id=1)),
    pb.ControlMessage(nack=pb.Nack(code=99)),
    pb.ControlMessage(lane_open=pb.LaneOpen(direction=1)),
    pb.ControlMessage(store_set=pb.StoreSet(direction=1, key="k" * 300)),
    pb.ControlMessage(store_set=pb.StoreSet(direction=1, value=bytes(70_000))),
    pb.ControlMessage(fetch=pb.Fetch(stream="../x")),
    pb.ControlMessage(fetch=pb.Fetch(stream="s", numbers=range(5000))),
    pb.ControlMessage(ack=pb.Ack(published=range(5000))),
    pb.ControlMessage(offer=pb.Offer(headers=[pb.BlockHeader(stream="s")])),
    pb.ControlMessage(offer=pb.Offer(headers=[pb.BlockHeader(stream="")])),
]


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense_is_refused(message: pb.ControlMessage) -> None:
    with pytest.raises(InvalidInput):
        message_from_proto(message)


def test_lane_kinds_of_the_future_are_left_out_of_a_hello() -> None:
    offers = [pb.LaneOffer(kind=77), pb.LaneOffer(kind=pb.LANE_KIND_GLOO)]
    message = message_from_proto(pb.ControlMessage(hello=pb.Hello(lanes=offers)))
    assert isinstance(message, core.Hello)
    assert message.lanes == (core.LaneOffer(kind=LaneKind.GLOO),)
