"""The Python client: feed a live video, ask about it while it plays.

::

    async with tandem.connect("127.0.0.1:7420") as t:
        async with t.watch(MediaKind.PICTURES, stream_id="door") as stream:
            await stream.push_picture(jpeg, pts_us=0)
            answer = await stream.ask("What is shown?")
"""

from tandem.client.connection import DEFAULT_ADDRESS, Client, connect
from tandem.client.events import EventReader
from tandem.client.overview import (
    AdmissionDecision,
    BuildInfo,
    ScalingDecision,
    ServiceStatus,
    Status,
    StreamSummary,
)
from tandem.client.questions import OpenQuestion
from tandem.client.security import Security
from tandem.client.settings import ClientSettings
from tandem.client.standing import Alert
from tandem.client.stream import Stream
from tandem.client.thinking import (
    Thinking,
    ThinkingEviction,
    ThinkingHeads,
    ThinkingRollover,
    ThinkingSubtasks,
    ThinkingUsage,
    ThinkingVerifier,
)
from tandem.client.types import (
    Answer,
    AnswerDelta,
    ConnectionLost,
    Event,
    FinishReason,
    GapNoticed,
    Limits,
    MediaKind,
    MediaOptions,
    ModelInfo,
    Opened,
    PictureFormat,
    Progress,
    Recall,
    RecalledBlock,
    Refusal,
    Retrieval,
    Sampling,
    Thought,
    Timings,
    Usage,
)
from tandem.client.workers import WorkerFinish, WorkerLayout, Workers, WorkerUsage
from tandem.core.standing import AnswerMatch, StandingQuestion
from tandem.core.watching import TextPositions, Watching, WatchMode

__all__ = [
    "DEFAULT_ADDRESS",
    "AdmissionDecision",
    "Alert",
    "Answer",
    "AnswerDelta",
    "AnswerMatch",
    "BuildInfo",
    "Client",
    "ClientSettings",
    "ConnectionLost",
    "Event",
    "EventReader",
    "FinishReason",
    "GapNoticed",
    "Limits",
    "MediaKind",
    "MediaOptions",
    "ModelInfo",
    "OpenQuestion",
    "Opened",
    "PictureFormat",
    "Progress",
    "Recall",
    "RecalledBlock",
    "Refusal",
    "Retrieval",
    "Sampling",
    "ScalingDecision",
    "Security",
    "ServiceStatus",
    "StandingQuestion",
    "Status",
    "Stream",
    "StreamSummary",
    "TextPositions",
    "Thinking",
    "ThinkingEviction",
    "ThinkingHeads",
    "ThinkingRollover",
    "ThinkingSubtasks",
    "ThinkingUsage",
    "ThinkingVerifier",
    "Thought",
    "Timings",
    "Usage",
    "WatchMode",
    "Watching",
    "WorkerFinish",
    "WorkerLayout",
    "WorkerUsage",
    "Workers",
    "connect",
]
