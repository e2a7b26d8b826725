"""Long streams through the real encoder's and reasoner's parts in one process, and what was asked of them.

Blocks are encoded by `encoder_svc.encode` in runs of `RUN_UNITS` with the model's own window, published
through a reasoner's inbox as they come, and asked about over gRPC. Pictures are seen by the vision tower once
a stream, since few differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import torch

from encoder_svc.app import DEFAULT_WINDOW_UNITS
from encoder_svc.decode.pictures import Rgb
from encoder_svc.encode import Run, Seen, encode_sink, prefill_runs
from encoder_svc.sample import Unit
from encoder_svc.window import Window
from kv_transfer.block import Block
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.inbox import LinkInbox
from tandem.core.blocks import Codec
from tandem.core.ids import StreamId
from tandem.core.timeline import MICROSECONDS, TimeRange
from tandem.shapes.questions import Question
from tandem.shapes.streams import Stream
from tandem.vlm.embedder import Embedder, embedder_digits
from tandem.vlm.embedders.pick import load_embedder, load_text_embedder
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel, VisualUnits
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc, types_pb2
from tandem.wire.proof import ProvenChannel

RUN_UNITS = 8
RECENT_UNITS, RECALLED = 128, 32
"""Newest units in view where the checkpoint does not say how many; most older ones that come back."""
ANSWER_TOKENS = 12
STREAM = "stream"
SECRET = b"not used: nothing attaches"
FULL = "full"


@dataclass(frozen=True)
class Answered:
    """One question and what a reasoner made of it."""

    question: Question
    text: str
    evidence: types_pb2.Evidence
    start: int = 0
    """The second at which frame 0 stands."""
    tokens: int = 0
    """Of the answer."""
    context: int = 0
    """Tokens in view before the question."""

    @property
    def right(self) -> bool:
        """The answer is the known one, word for word."""
        return self.text == self.question.answer

    def layers(self, of: int) -> float:
        """The part of `of` layers that had the evidence frame in view which most layers had; 0 to 1."""
        times = [(self.start + frame) * MICROSECONDS for frame in self.question.evidence]
        recalled = {block.time.start_us: block.layers for block in self.evidence.recalled}
        seen = [t for t in times if any(r.start_us <= t < r.end_us for r in self.evidence.seen)]
        return max((recalled.get(time, of) / of for time in seen), default=0.0)

    @property
    def blocks_loaded(self) -> int:
        """Older blocks in view, counted once per layer."""
        return sum(block.layers for block in self.evidence.recalled)


class Parts:
    """The model and its embedder, as both services load them."""

    def __init__(self, source: str, recent_units: int = 0, codec: Codec = Codec.RAW) -> None:
        """`source`: see `tandem.vlm.load.load_model`; `recent_units` 0: the checkpoint's own."""
        self.codec = codec
        self.model: VisionLanguageModel = load_model(source)
        self.pictures = load_embedder("auto", source)
        self.text = load_text_embedder("auto", source)
        geometry = self.model.prompt.geometry(self.model.grid(56, 56))
        self.block_tokens = geometry.tokens
        own_tokens = self.model.prompt.recent_tokens or RECENT_UNITS * geometry.tokens
        self.recent_tokens = recent_units * geometry.tokens or own_tokens

    @property
    def strategies(self) -> tuple[str, ...]:
        """What can be compared: external retrieval only where the checkpoint has an embedder."""
        return ("rekv", *(("external",) if self.text is not None else ()), "recent", "uniform")


def encode(parts: Parts, stream: Stream) -> Iterator[list[Block]]:
    """The stream's blocks: first the sink, then run by run."""
    model, name = parts.model, StreamId(STREAM)
    window = Window(model, model.prompt.window_units or DEFAULT_WINDOW_UNITS)
    yield [encode_sink(model, name, window)]
    frames = torch.from_numpy(stream.pictures)[:, None].expand(-1, model.prompt.frames_per_unit, -1, -1, -1)
    once = model.see(frames)
    embeddings = _embeddings(parts.pictures, frames, once)
    shown = stream.shown.tolist()
    for first in range(0, len(shown), RUN_UNITS):
        run = shown[first : first + RUN_UNITS]
        start = stream.timeline.start + first
        units = tuple(_unit(model, stream.pictures[row], start + i) for i, row in enumerate(run))
        visual = VisualUnits(once.embeds[torch.tensor(run)], once.grid)
        tokens = model.unit_embeds(visual, [unit.time.start_us for unit in units])
        by = embedder_digits(parts.pictures)
        seen = [Seen(of_unit, embeddings[row], by) for of_unit, row in zip(tokens, run, strict=True)]
        blocks = prefill_runs(model, [Run(name, window, units)], [seen], parts.codec)[0]
        assert isinstance(blocks, list), blocks
        yield blocks


def _embeddings(
    embedder: Embedder | None, frames: torch.Tensor, seen: VisualUnits
) -> Sequence[torch.Tensor | None]:
    return [None] * len(frames) if embedder is None else list(embedder.pictures(frames, seen))


def _unit(model: VisionLanguageModel, picture: Rgb, second: int) -> Unit[Rgb]:
    time = TimeRange(second * MICROSECONDS, (second + 1) * MICROSECONDS)
    return Unit(time, (picture,) * model.prompt.frames_per_unit)


@dataclass
class Asking:
    """A reasoner on a port of this process with one open stream."""

    stub: Any
    link: LinkInbox

    def publish(self, blocks: Sequence[Block]) -> None:
        """Hand blocks over as a link would."""
        for block in blocks:
            buffer = self.link.reserve(block.header)
            buffer.copy_(block.payload)
            self.link.publish(block.header, buffer)

    async def ask(self, question: Question, strategy: str, start: int = 0) -> Answered:
        """The whole answer, greedy, about everything published. `FULL` leaves the strategy out."""
        wish = None if strategy == FULL else types_pb2.Retrieval(strategy=strategy, blocks=RECALLED)
        wired = types_pb2.Question(
            question_id="q",
            text=question.text,
            sampling=types_pb2.Sampling(max_tokens=ANSWER_TOKENS),
            retrieval=wish,
        )
        call = self.stub.Answer(reasoner_pb2.AnswerRequest(stream_id=STREAM, question=wired))
        text, evidence, tokens, context = "", None, 0, 0
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.WhichOneof("event") == "delta":
                text += response.delta
            else:
                final = response.final
                evidence, tokens, context = (
                    final.evidence,
                    final.usage.answer_tokens,
                    final.usage.context_tokens,
                )
        assert evidence is not None, "the answer has no final record"
        return Answered(question, text, evidence, start, tokens, context)


@asynccontextmanager
async def asking(parts: Parts, units: int, view_tokens: int) -> AsyncIterator[Asking]:
    """A reasoner with room in RAM for so many units, and the newest `view_tokens` tokens always in view."""
    block_bytes = parts.model.layout.block_bytes(parts.block_tokens)
    config = ReasonerConfig(
        name="reasoner",
        secret=SECRET,
        ram_bytes=units * block_bytes * 5 // 4 + (1 << 26),
        view_tokens=view_tokens,
        retrieve_blocks=RECALLED,
        other_retrieval=("uniform", "recent"),
    )
    async with serving(parts, config) as (_, asked):
        yield asked


@asynccontextmanager
async def serving(parts: Parts, config: ReasonerConfig) -> AsyncIterator[tuple[Reasoner, Asking]]:
    """A reasoner on a port of this process, with one stream open."""
    reasoner = Reasoner(config, parts.model, embedder=parts.text)
    address = await reasoner.start()
    try:
        async with ProvenChannel(address, config.secret, config.name) as channel:
            stub = reasoner_pb2_grpc.ReasonerServiceStub(channel)
            await stub.OpenStream(reasoner_pb2.OpenStreamRequest(stream_id=STREAM, epoch=1))
            yield reasoner, Asking(stub, LinkInbox(reasoner.inbox, lambda: "encoder"))
    finally:
        await reasoner.stop(grace_s=0.0)


async def ask_all(parts: Parts, stream: Stream, full: bool) -> dict[str, list[Answered]]:
    """Every question of a stream, asked at its end, by strategy; with `full` also with everything in view."""
    frames, start = stream.timeline.frames, stream.timeline.start
    async with AsyncExitStack() as stack:
        retrieving = await stack.enter_async_context(asking(parts, frames, parts.recent_tokens))
        reasoners = dict.fromkeys(parts.strategies, retrieving)
        if full:
            everything = (frames + 1) * parts.block_tokens
            reasoners[FULL] = await stack.enter_async_context(asking(parts, frames, everything))
        distinct = [retrieving, *([reasoners[FULL]] if full else [])]
        for blocks in encode(parts, stream):
            for reasoner in distinct:
                reasoner.publish(blocks)
            await asyncio.sleep(0)  # the reasoners take up what was published
        return {
            strategy: [await reasoner.ask(question, strategy, start) for question in stream.questions]
            for strategy, reasoner in reasoners.items()
        }
