"""Pure: entries of the outbox to messages of the call, and messages of the call to events."""

from __future__ import annotations

from tandem.client import convert
from tandem.client.outbox import Ask, Cancel, End, Entry, Media, Stand
from tandem.client.types import Event, MediaOptions
from tandem.core.watching import Watching
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.standing import standing_to_proto
from tandem.wire.watching import watching_to_proto

MESSAGE_OVERHEAD_BYTES = 256
"""More than the fields around a picture's or chunk's bytes ever take."""


def open_message(
    stream_id: str,
    resume_token: str,
    media: MediaOptions,
    watching: Watching | None = None,
    tenant: str = "",
    record: bytes = b"",
) -> client_pb2.WatchRequest:
    """The first message of a call."""
    return client_pb2.WatchRequest(
        open=client_pb2.WatchRequest.Open(
            stream_id=stream_id,
            resume_token=resume_token,
            media=convert.media_to_proto(media),
            watching=watching_to_proto(watching) if watching else None,
            tenant=tenant,
            record=record,
        )
    )


def entry_message(entry: Entry) -> client_pb2.WatchRequest:
    """The message for one entry."""
    match entry:
        case Media():
            return _media_message(entry)
        case Ask():
            return client_pb2.WatchRequest(
                ask=convert.question_to_proto(
                    question_id=entry.question_id,
                    text=entry.text,
                    sampling=entry.sampling,
                    at_once=entry.at_once,
                    latency_budget_s=entry.latency_budget_s,
                    retrieval=entry.retrieval,
                    workers=entry.workers,
                    thinking=entry.thinking,
                )
            )
        case Cancel():
            cancel = client_pb2.WatchRequest.CancelQuestion(question_id=entry.question_id)
            return client_pb2.WatchRequest(cancel=cancel)
        case Stand():
            return client_pb2.WatchRequest(stand=standing_to_proto(entry.standing))
        case End():
            return client_pb2.WatchRequest(end=client_pb2.WatchRequest.End(forget=entry.forget))


def event_of(response: client_pb2.WatchResponse) -> Event | None:
    """The event in `response`; None for one that this version does not know."""
    match response.WhichOneof("event"):
        case "welcome":
            return convert.opened_from_proto(response.welcome)
        case "progress":
            return convert.progress_from_proto(response.progress)
        case "thought":
            return convert.thought_from_proto(response.thought)
        case "answer_delta":
            return convert.delta_from_proto(response.answer_delta)
        case "answer":
            return convert.answer_from_proto(response.answer)
        case "alert":
            return convert.alert_from_proto(response.alert)
        case "refusal":
            return convert.refusal_from_proto(response.refusal)
        case "goodbye":
            return convert.progress_from_proto(response.goodbye.progress)
    return None


def is_goodbye(response: client_pb2.WatchResponse) -> bool:
    """True for the last message of a call."""
    return response.WhichOneof("event") == "goodbye"


def _media_message(media: Media) -> client_pb2.WatchRequest:
    if media.format is None:
        return client_pb2.WatchRequest(chunk=types_pb2.Chunk(offset=media.position, data=media.data))
    return client_pb2.WatchRequest(
        picture=types_pb2.Picture(
            sequence=media.position,
            pts_us=media.pts_us or 0,
            format=convert.PICTURE_FORMAT_TO_PROTO[media.format],
            data=media.data,
            width=media.width,
            height=media.height,
        )
    )
