"""What comes in gRPC calls: each message that a role takes, read and judged as its handler does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError, Message

from encoder_svc.messages import item_from_proto, opening_from_proto
from orchestrator.asking import ask
from orchestrator.capacity import encoder_room, reasoner_room
from orchestrator.intake import check_media, receive_chunk, receive_picture
from orchestrator.inventory import Holding, Inventory
from orchestrator.limits import check_question, check_stream_id
from orchestrator.membership import Identity, Membership
from orchestrator.messages import progress_of, thought_of
from orchestrator.questions import admit
from orchestrator.quotas import check_tenant
from orchestrator.reasoner_link import held_from_proto
from orchestrator.registry import check_drain, check_hello
from orchestrator.session import Session
from orchestrator.watching import check_watching
from reasoner_svc.asking import asked_question, check_opening
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.notes.serving import within
from reasoner_svc.streams import StreamRecord
from reasoner_svc.workers.templates import load_templates
from tandem.client.convert_overview import status_from_proto, summary_from_proto
from tandem.client.messages import event_of
from tandem.core.clock import ManualClock
from tandem.core.errors import InvalidInput, TandemError
from tandem.core.ids import Epoch, StreamId
from tandem.core.watching import WatchMode
from tandem.wire.attach import attach_proof, drain_proof
from tandem.wire.gen.tandem.v1 import client_pb2, encoder_pb2, reasoner_pb2, registry_pb2, types_pb2
from tandem.wire.standing import standing_from_proto
from tandem.wire.watching import watching_from_proto
from tests.property.foreign.parser import Parser
from tests.property.foreign.wire import NOW_S, SECRET
from tests.unit.orchestrator.test_session import make as make_session
from tests.unit.orchestrator.test_session import picture
from tests.unit.reasoner_svc.making import make_header

PICTURES = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES, sample_fps=2.0, max_lag_ms=500)
SAMPLING = types_pb2.Sampling(temperature=0.5, top_p=0.9, max_tokens=8, stop=["."], seed=3)
WATCHING = types_pb2.Watching(
    mode=types_pb2.WATCH_MODE_SEGMENT_NOTES, segment_units=2, note_tokens=8, prompt="what?"
)
QUESTION = types_pb2.Question(
    question_id="q",
    text="What was shown?",
    latency_budget_ms=500,
    sampling=SAMPLING,
    retrieval=types_pb2.Retrieval(strategy="rekv", blocks=4, mass=0.5, load_budget_ms=20),
)
WORKERS = types_pb2.Workers(count=2, max_tokens=16, sampling=[types_pb2.Sampling(temperature=0.5)])
THINKING = types_pb2.Thinking(max_tokens=16, open="<think>", close="</think>", loop_guard=True)
STANDING = types_pb2.StandingQuestion(
    question_id="s",
    text="Is it red?",
    expect="yes",
    match=types_pb2.ANSWER_MATCH_WORDS,
    every_ms=500,
    confirm=2,
)
RANGE = types_pb2.TimeRange(start_us=0, end_us=1_000_000)
GAP = types_pb2.Gap(range=RANGE, reason=types_pb2.GAP_REASON_OVERLOAD)
REFUSED = types_pb2.Error(code="bad_media", message="no", retry_after_ms=5)
CONFIG = ReasonerConfig(name="r", secret=SECRET)


def call(
    parse: Callable[[object], object],
    *seeds: Message,
    also: tuple[type[BaseException], ...] = (),
    is_slow: bool = False,
    least_deep: float = 0.25,
) -> Parser:
    """Of one kind of message."""
    kind = type(seeds[0])
    return Parser(
        lambda: [seed.SerializeToString() for seed in seeds],
        lambda data: parse(kind.FromString(data)),
        (TandemError, DecodeError, *also),
        form=kind,
        is_slow=is_slow,
        least_deep=least_deep,
    )


def _session(kind: int = types_pb2.MEDIA_KIND_PICTURES) -> Session:
    session = make_session(kind, ManualClock())
    if not session.is_bytes:
        receive_picture(session, picture(0))
    return session


def _watch(request: client_pb2.WatchRequest) -> object:
    """As `orchestrator/gateway.py` goes through its events."""
    session = _session()
    match request.WhichOneof("event"):
        case "open":
            check_media(request.open.media)
            check_watching(request.open.watching, request.open.stream_id)
            check_stream_id(request.open.stream_id)
            return check_tenant(request.open.tenant)
        case "picture":
            return receive_picture(session, request.picture)
        case "chunk":
            bytes_session = _session(types_pb2.MEDIA_KIND_MPEG_TS)
            receive_chunk(bytes_session, request.chunk)
            return bytes_session.take()
        case "ask":
            return _ask(request.ask)
        case "stand":
            asked = standing_from_proto(request.stand)
            return check_question(session.settings.limits, asked.question_id, asked.text, 0)
    return request


def _ask(question: types_pb2.Question) -> object:
    session = _session()
    admit(session, question)
    return ask(session, question, ManualClock())


def _encode(request: encoder_pb2.EncodeRequest) -> object:
    return opening_from_proto(request) if request.WhichOneof("event") == "open" else item_from_proto(request)


@functools.cache
def _model() -> object:
    from tandem.vlm.load import load_model

    return load_model("dummy:tiny-timestamped")


def _prompt() -> object:
    return _model().prompt  # type: ignore[attr-defined]


def _answer(request: reasoner_pb2.AnswerRequest) -> object:
    record = StreamRecord(StreamId("gate"), run=3, epoch=Epoch(1))
    for number in range(2):
        record.show(make_header(number))
    return asked_question(request, record, _prompt(), CONFIG, 5.0, load_templates())


def _take_notes(request: reasoner_pb2.WatchStreamRequest) -> object:
    watching = watching_from_proto(request.watching)
    if watching.mode is WatchMode.OFF:
        raise InvalidInput("the watch mode is off")
    return within(watching, _prompt(), CONFIG)


def _hello(request: registry_pb2.AttachRequest) -> tuple[Identity, int]:
    hello = request.hello
    if request.WhichOneof("event") != "hello":
        raise InvalidInput("the first message must be hello")
    # Whoever attaches knows the secret: what it says is looked at nevertheless.
    hello.proof = attach_proof(SECRET, hello.name, hello.role, hello.build.boot_id, hello.address)
    return check_hello(hello, SECRET)


def _beat(request: registry_pb2.AttachRequest) -> object:
    """What a heartbeat says is used where streams are placed."""
    members = Membership(lease_s=10.0, fresh_s=2.0)
    identity, _ = _hello(registry_pb2.AttachRequest(hello=HELLO))
    members.hello(identity, 0.0)
    members.heartbeat(
        identity.name, identity.boot_id, 1.0, request.heartbeat.streams, dict(request.heartbeat.details)
    )
    [member] = members.members
    return encoder_room(member, 2.0), reasoner_room(member)


def _drain(request: registry_pb2.DrainServiceRequest) -> object:
    request.proof = drain_proof(
        SECRET, request.name, request.boot_id, request.grace_ms, request.not_after_unix_s
    )
    return check_drain(request, SECRET, NOW_S)


def _encoded(response: encoder_pb2.EncodeResponse) -> object:
    """What an encoder says, in its stream's session, and what the client is told then."""
    session = _session()
    match response.WhichOneof("event"):
        case "opened":
            session.opened(response.opened)
        case "progress":
            session.progress(response.progress)
        case "ended":
            session.progress(response.ended.progress)
        case "refused":
            session.refused(response.refused)
    return progress_of(session)


def _held(response: reasoner_pb2.FollowResponse) -> object:
    state, session, inventory = response.state, _session(), Inventory()
    session.held(state)
    holding = Holding(
        stream=StreamId(state.stream_id),
        incarnation=state.incarnation,
        reasoner="r",
        epoch=state.epoch,
        watermark_us=state.watermark_us,
        next_block_number=state.next_block_number,
    )
    inventory.told("boot", holding)
    inventory.gone("boot")
    assert not len(inventory)
    return held_from_proto(state), progress_of(session)


HELLO = registry_pb2.AttachRequest.Hello(
    name="e",
    role="encoder",
    address="127.0.0.1:1",
    protocol=1,
    build=types_pb2.BuildInfo(version="1", boot_id="boot", pid=7),
    model=types_pb2.ModelInfo(source="m", fingerprint="f" * 32, native_fps=2.0),
)
DETAILS = {
    "overload": "0.5", "frames_per_unit": "2", "unit_seconds": "0.1", "limit": "units", "unit_tokens": "12",
    "token_bytes": "512", "window_units": "30", "busy_share": "0.5", "max_streams": "8", "questions": "3",
    "ram_budget_bytes": "100000", "notes_bytes": "0", "listeners": "127.0.0.1:1 calls (plain)",
}  # fmt: skip
_OPEN = client_pb2.WatchRequest.Open(stream_id="gate", media=PICTURES, watching=WATCHING, tenant="acme")
_ENCODE = encoder_pb2.EncodeRequest.Open(
    stream_id="gate",
    epoch=1,
    reasoner_name="r",
    reasoner_address="127.0.0.1:1",
    media=PICTURES,
    weight=1.0,
    incarnation="n",
    resume=encoder_pb2.EncodeRequest.Resume(next_block_number=3, from_us=5, position=7),
)
_PICTURE = types_pb2.Picture(
    sequence=3, pts_us=3000, format=types_pb2.PICTURE_FORMAT_RGB24, width=2, height=1, data=b"abcabc"
)
_CHUNK = types_pb2.Chunk(offset=0, data=b"abc")
_PROGRESS = encoder_pb2.EncodeResponse.Progress(
    watermark_us=500_000,
    decoded_us=600_000,
    safe_position=1,
    next_block_number=2,
    gaps=[GAP],
    lag_ms=3.0,
    consumed_position=1,
    sample_fps=2.0,
    decoder_header=b"h",
    decoded=[encoder_pb2.EncodeResponse.DecodedFrame(position=0, time_us=0)],
    decoded_position=1,
)
_STATE = reasoner_pb2.StreamState(
    stream_id="gate",
    next_block_number=2,
    watermark_us=500_000,
    blocks=1,
    ram_bytes=5,
    evicted=[RANGE],
    epoch=1,
    durable_watermark_us=1,
    incarnation="n",
)
_TOLD: Sequence[Message] = (
    client_pb2.WatchResponse(
        welcome=client_pb2.WatchResponse.Welcome(stream_id="gate", resume_token="t", next_position=1)
    ),
    client_pb2.WatchResponse(progress=client_pb2.WatchResponse.Progress(watermark_us=5, gaps=[GAP])),
    client_pb2.WatchResponse(answer_delta=client_pb2.AnswerDelta(question_id="q", text="a")),
    client_pb2.WatchResponse(
        answer=client_pb2.Answer(
            question_id="q",
            text="a",
            evidence=types_pb2.Evidence(seen=[RANGE], blocks=2),
            usage=types_pb2.Usage(context_tokens=3),
            finish_reason=types_pb2.FINISH_REASON_END,
            gaps=[GAP],
        )
    ),
    client_pb2.WatchResponse(refusal=client_pb2.WatchResponse.Refusal(error=REFUSED, position=1)),
    client_pb2.WatchResponse(thought=client_pb2.WatchResponse.Thought(text="t", note=1, range=RANGE)),
    client_pb2.WatchResponse(alert=client_pb2.WatchResponse.Alert(question_id="s", time_us=5)),
)
CALLS: dict[str, Parser] = {
    "call Watch": call(
        _watch,
        client_pb2.WatchRequest(open=_OPEN),
        client_pb2.WatchRequest(picture=_PICTURE),
        client_pb2.WatchRequest(chunk=_CHUNK),
        client_pb2.WatchRequest(ask=QUESTION),
        client_pb2.WatchRequest(stand=STANDING),
        client_pb2.WatchRequest(cancel=client_pb2.WatchRequest.CancelQuestion(question_id="q")),
        client_pb2.WatchRequest(end=client_pb2.WatchRequest.End(forget=True)),
    ),
    "call Ask": call(
        lambda request: _ask(request.question), client_pb2.AskRequest(stream_id="gate", question=QUESTION)
    ),
    "call Encode": call(
        _encode,
        encoder_pb2.EncodeRequest(open=_ENCODE),
        encoder_pb2.EncodeRequest(picture=_PICTURE),
        encoder_pb2.EncodeRequest(chunk=_CHUNK),
        encoder_pb2.EncodeRequest(gap=GAP),
    ),
    "call OpenStream": call(
        check_opening, reasoner_pb2.OpenStreamRequest(stream_id="gate", epoch=3, incarnation="n", encoder="e")
    ),
    "call Answer": call(
        _answer,
        reasoner_pb2.AnswerRequest(stream_id="gate", question=QUESTION, as_of_us=5),
        reasoner_pb2.AnswerRequest(
            stream_id="gate", question=types_pb2.Question(question_id="q", text="What?", workers=WORKERS)
        ),
        reasoner_pb2.AnswerRequest(
            stream_id="gate", question=types_pb2.Question(question_id="q", text="What?", thinking=THINKING)
        ),
        is_slow=True,
    ),
    "call WatchStream": call(
        _take_notes, reasoner_pb2.WatchStreamRequest(stream_id="gate", watching=WATCHING), is_slow=True
    ),
    "call Attach, hello": call(_hello, registry_pb2.AttachRequest(hello=HELLO)),
    "call Attach, heartbeat": call(
        _beat,
        registry_pb2.AttachRequest(
            heartbeat=registry_pb2.AttachRequest.Heartbeat(number=1, streams=2, details=DETAILS)
        ),
    ),
    "call DrainService": call(
        _drain,
        registry_pb2.DrainServiceRequest(name="e", boot_id="b", grace_ms=5, not_after_unix_s=NOW_S + 5),
    ),
    "told by an encoder": call(
        _encoded,
        encoder_pb2.EncodeResponse(opened=encoder_pb2.EncodeResponse.Opened(sample_fps=2.0)),
        encoder_pb2.EncodeResponse(progress=_PROGRESS),
        encoder_pb2.EncodeResponse(ended=encoder_pb2.EncodeResponse.Ended(progress=_PROGRESS)),
        encoder_pb2.EncodeResponse(refused=encoder_pb2.EncodeResponse.Refused(error=REFUSED, position=0)),
    ),
    "told by a reasoner": call(_held, reasoner_pb2.FollowResponse(state=_STATE)),
    "thought of a reasoner": call(
        lambda thought: thought_of(thought, 0),
        reasoner_pb2.WatchStreamResponse(note=1, range=RANGE, text="t", done=True),
    ),
    "told to a client": call(event_of, *_TOLD),
    "list told to a client": call(
        summary_from_proto, client_pb2.StreamSummary(stream_id="gate", state="LIVE", sample_fps=2.0)
    ),
    "status told to a client": call(
        status_from_proto,
        client_pb2.GetStatusResponse(
            services=[client_pb2.ServiceStatus(name="e", role="encoder", details={"a": "b"})],
        ),
    ),
}
