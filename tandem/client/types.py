"""Pure: what the client hands out and takes in, as frozen dataclasses. Knows no protobuf and no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tandem.client.recall import Recall as Recall
from tandem.client.recall import RecalledBlock as RecalledBlock
from tandem.client.standing import Alert
from tandem.client.thinking import ThinkingUsage
from tandem.client.workers import WorkerUsage
from tandem.core.errors import TandemError
from tandem.core.timeline import Gap, TimeRange

_NO_TIME = TimeRange(0, 0)


class MediaKind(StrEnum):
    """How a stream's media is packed."""

    PICTURES = "pictures"
    """Single pictures, each with its own pts: `Stream.push_picture`."""
    H264_ANNEX_B = "h264_annex_b"
    """H.264 byte stream without timestamps: `Stream.push_chunk`; see `MediaOptions.nominal_fps`."""
    H265_ANNEX_B = "h265_annex_b"
    """H.265 byte stream without timestamps: `Stream.push_chunk`; see `MediaOptions.nominal_fps`."""
    FRAGMENTED_MP4 = "fragmented_mp4"
    """Fragmented MP4 byte stream: `Stream.push_chunk`."""
    MPEG_TS = "mpeg_ts"
    """MPEG transport stream: `Stream.push_chunk`."""


class PictureFormat(StrEnum):
    """Encoding of one picture."""

    JPEG = "jpeg"
    PNG = "png"
    RGB24 = "rgb24"
    """Raw 8-bit RGB, row-major; needs width and height."""


class FinishReason(StrEnum):
    """Why an answer ended."""

    END = "end"
    """The model ended it."""
    STOP = "stop"
    """A stop text was met."""
    LENGTH = "length"
    """`Sampling.max_tokens` was reached."""
    LOOP = "loop"
    """It repeated itself, and the loop guard stopped it."""
    CANCELLED = "cancelled"
    """The asker cancelled it."""
    ERROR = "error"
    """It failed: `Answer.error` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """How one stream is fed and sampled."""

    kind: MediaKind
    sample_fps: float = 0.0
    """Frames per second of stream time that are watched; 0 means the model's own rate."""
    nominal_fps: float = 0.0
    """Frames per second of an Annex B stream, which carries no timestamps; 0 means 25."""
    min_fps: float = 0.0
    """The least that is accepted when the service has too much to do; 0: as `sample_fps`."""
    max_lag_s: float = 0.0
    """About so far behind the live edge frames are left out (gaps, OVERLOAD) rather than watched late; 0:
    never, pushing waits instead. For live sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.0
    """0 is greedy; at most 2."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]."""
    seed: int = 0
    max_tokens: int = 0
    """Most tokens of the answer; 0 means the server's default."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """How older video comes back into a question's view; `docs/retrieval.md` has the strategies."""

    strategy: str = ""
    """A name that the server knows; empty: the server's own."""
    blocks: int = 0
    """Most blocks that come back, in every layer; 0: the server's limit, which is also the most."""
    tokens: int = 0
    """Most tokens of these blocks, in every layer; 0: no such limit."""
    mass: float = 0.0
    """Adaptive: no more blocks than have this share of the softmax over all scores; 0: off."""
    chunk: int = 0
    """Neighbouring blocks that are scored and brought back together; 0: 1."""
    load_budget_s: float = 0.0
    """Longest time for reading blocks from disk; what would take longer is left out. 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server takes; the client refuses more before sending it. 0 means no limit was told."""

    max_message_bytes: int = 0
    max_question_chars: int = 0
    max_open_questions: int = 0
    max_picture_pixels: int = 0
    resume_s: float = 0.0
    """Seconds that a stream without a client is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model that watches."""

    source: str = ""
    fingerprint: str = ""
    native_fps: float = 0.0
    block_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The stream is open: at first, and again after each lost connection."""

    stream_id: str
    resume_token: str = field(repr=False)
    resumed: bool
    """True when the server still had the stream; after a loss, False means that its memory is gone."""
    next_position: int
    """Position the client goes on from: the next picture sequence or byte offset."""
    model: ModelInfo
    sample_fps: float
    limits: Limits
    admission: str = ""
    """Why it was let in, and at this rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What has been watched so far."""

    received_us: int = 0
    watermark_us: int = 0
    """Stream time up to which everything is published or declared a gap."""
    durable_watermark_us: int = 0
    """The same, on stable storage; 0 where the server keeps nothing on disk."""
    lag_ms: float = 0.0
    """From the arrival of the newest published frame to its publication."""
    gaps: tuple[Gap, ...] = ()
    safe_position: int = 0
    """Position before which nothing will be asked for again."""
    blocks: int = 0
    received_position: int = 0
    """Position before which everything was received; 0 where the server does not say."""
    sample_fps: float = 0.0
    """Frames per second that are watched now; 0 where the server does not say."""
    rate_reason: str = ""
    """Why that is less than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapNoticed:
    """A gap, or more of one, that was not known before."""

    gap: Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """More text of a worker: on a question, or of one that watches (then `note` is set). After the loss of a
    server the thoughts of a question may begin again.
    """

    worker: str
    time_us: int
    """Stream time that had been watched when it was made."""
    text: str
    question_id: str = ""
    number: int = 0
    """Of the worker on its question, from 0."""
    note: int = 0
    """Number of the note that it is part of, from 1; 0: of none."""
    time: TimeRange = _NO_TIME
    """What the note is about."""
    done: bool = False
    """The note is finished with this; its text may be empty. If it `failed` it came to nothing, not kept."""
    failed: bool = False
    dropped: int = 0
    """Pieces before this one that were not sent: they were not read in time, or nobody was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDelta:
    """More text of an answer."""

    question_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens counted."""

    context_tokens: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    thinking_tokens: int = 0
    """Of the answerer's own thinking."""
    thinking_closed_by: str = ""
    """Which rule ended it, and why; empty: none did."""
    notes_tokens: int = 0
    """Those of `context_tokens` that are of notes."""
    thinking: ThinkingUsage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of an answer went, in milliseconds."""

    wait_frames_ms: float = 0.0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    """From the question's arrival at the front door to the first token leaving it."""
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The final record of an answer."""

    question_id: str
    text: str
    finish_reason: FinishReason
    asked_us: int
    """Stream time at which it was asked: of bytes, that of the newest frame of which any had been pushed."""
    watermark_us: int
    """Watermark that the answer saw."""
    evidence: tuple[TimeRange, ...] = ()
    """Stream times of the visual blocks in view, joined where they touch."""
    evidence_blocks: int = 0
    notes: tuple[TimeRange, ...] = ()
    """What the watcher's notes in view are about, oldest first."""
    recall: Recall = field(default_factory=Recall)
    """What of the evidence is older than the recent window."""
    gaps: tuple[Gap, ...] = ()
    """Gaps before the watermark: what the answer could not know."""
    usage: Usage = Usage()
    workers: tuple[WorkerUsage, ...] = ()
    """What became of each worker; empty when there were none."""
    timings: Timings = Timings()
    error: TandemError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something the client sent was refused; the call goes on."""

    error: TandemError
    position: int | None = None
    """The picture or chunk that was refused."""
    question_id: str = ""
    """The question that was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLost:
    """The connection broke; the client tries again after `retry_in_s`."""

    error: TandemError
    retry_in_s: float


Event = Opened | Progress | GapNoticed | Thought | Alert | AnswerDelta | Answer | Refusal | ConnectionLost
