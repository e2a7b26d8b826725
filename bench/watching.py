"""Watching modes on a live stream: what a question costs, what was spent before it, and how late frames are.

A stream of the default model's own world plays at a pace that the machine sustains when nobody watches
(`LOAD` of what the encoder can do alone), the modes one after the other in every turn. Each mode plays it
twice: with the times of that pace, for delays, questions being asked at fixed places; and with a second a
frame, as the model was trained, for tokens and for accuracy: at its end every question whose answer is known.
There a frame comes every `SLOW_S`, so that a watcher keeps up as it does at a second a frame.

Per mode, with `off` as the baseline (off over the mode, so that more is better; accuracy the other way):
``first_token_<mode>``, ``answer_<mode>``: milliseconds from a question while the stream plays to the first
token and to the whole answer, waiting included. ``tokens_before_<mode>``: tokens that the watcher wrote a
stream. ``notes_right_<mode>``: notes that say word for word what began in their interval.
``tokens_after_<mode>``: tokens of an answer. ``accuracy_<mode>``: answers at the end that are right, word for
word, about single moments; ``accuracy_several_<mode>`` those that rest on many, counts and what came back,
and ``tokens_after_several_<mode>`` theirs. ``frame_lag_<mode>``: milliseconds from the camera to where
questions see a frame. ``frame_lag_growth_<mode>``: how much later the last third of a stream is than the one
before; in the first, what is in view still grows.

``accuracy_several_few_<mode>`` and ``tokens_in_view_few_<mode>``: the questions about many moments once more,
with the same few newest blocks in view (`FEW`): by what retrieval brings back, and by notes alone.

The default model's notes are short. So the same is played with random weights that use a note's whole budget
(`BUSY`): ``frame_lag_busy_<mode>``, ``frame_lag_growth_busy_<mode>``, ``first_token_busy_<mode>`` and
``tokens_before_busy_<mode>``.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from typing import Any

import grpc
import torch

from bench._decoding import Row
from bench._live import Encoder, play
from bench._notes import collect, wanted
from bench._streams import ANSWER_TOKENS, FULL, RECALLED, SECRET, STREAM, Asking, Parts, serving
from bench._watched import Measured, of_busy, of_mode, row
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.notes.box import ThoughtBox
from tandem.core.errors import TandemError
from tandem.core.ids import StreamId
from tandem.core.watching import Watching, WatchMode
from tandem.shapes.questions import Question
from tandem.shapes.streams import SEVERAL, draw_stream
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2

MODES = (
    WatchMode.OFF,
    WatchMode.INTERLEAVED,
    WatchMode.CONCURRENT,
    WatchMode.SEGMENT_NOTES,
    WatchMode.CLIP_THINKING,
)
BUSY = "dummy:tiny"
LOAD = 0.4
SLOW_S = 0.05
PROBE_EVERY = 10
"""Units from one question to the next while the stream plays."""
FEW = {WatchMode.OFF: (16, RECALLED), WatchMode.SEGMENT_NOTES: (16, 0)}
"""Newest blocks in view, and how many older ones a question may bring back, where few are wanted."""


def settings(quick: bool) -> dict[str, Any]:
    """What `run` is going to do."""
    return {
        "model": "default",
        "busy_model": BUSY,
        "threads": 1,
        "modes": [mode.value for mode in MODES],
        "units": 60 if quick else 240,
        "timed_units": 60 if quick else 720,
        "few_blocks": {mode.value: blocks for mode, blocks in FEW.items()},
        "turns": 1 if quick else 3,
        "load": LOAD,
        "slow_s": SLOW_S,
        "probe_every_units": PROBE_EVERY,
        "recalled_blocks": RECALLED,
    }


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    chosen = settings(quick)
    torch.set_num_threads(chosen["threads"])
    rows: list[Row] = []
    for source in (chosen["model"], BUSY):
        parts, is_busy = Parts(source), source == BUSY
        period_s = _pace(parts)
        found: dict[WatchMode, Measured] = defaultdict(Measured)
        for turn in range(chosen["turns"]):
            for mode in MODES:
                asyncio.run(_timed(parts, mode, turn, chosen["timed_units"], period_s, found[mode]))
                if not is_busy:
                    asked = Measured()
                    asyncio.run(_asked(parts, mode, turn, chosen["units"], max(period_s, SLOW_S), asked))
                    found[mode].take(asked)
        of_modes = of_busy if is_busy else of_mode
        rows += [row for mode in MODES for row in of_modes(mode, found[mode], found[WatchMode.OFF])]
        rows.append(row(f"unit_period{'_busy' if is_busy else ''}", [1000 * period_s], "ms"))
    return rows


def _pace(parts: Parts) -> float:
    """Seconds from one unit to the next that load the encoder, alone, by `LOAD`."""
    encoder, seconds = Encoder(parts, draw_stream(0, 60)), []
    with torch.inference_mode():
        encoder.sink()
        for unit in range(30):
            began_s = time.perf_counter()
            encoder.blocks(unit, 1)
            seconds.append(time.perf_counter() - began_s)
    return statistics.median(seconds[10:]) / LOAD


def _config(parts: Parts, recent: int = 0, recalled: int = RECALLED) -> ReasonerConfig:
    """`recent` newest blocks always in view (0: as many as the model was trained with)."""
    view_tokens = recent * parts.block_tokens or parts.recent_tokens
    return ReasonerConfig(name="reasoner", secret=SECRET, view_tokens=view_tokens, retrieve_blocks=recalled)


async def _timed(
    parts: Parts, mode: WatchMode, seed: int, units: int, period_s: float, into: Measured
) -> None:
    """One stream, played with the times of its pace and asked about meanwhile."""
    stream = draw_stream(seed, units)
    async with serving(parts, _config(parts)) as (reasoner, asking):
        box = _watch(reasoner, mode)
        notes = asyncio.create_task(collect(box))
        probes: list[asyncio.Task[None]] = []

        def on_unit(number: int) -> None:
            if number and number % PROBE_EVERY == 0:
                question = stream.questions[len(probes) % len(stream.questions)]
                probes.append(asyncio.create_task(_probe(asking.stub, question, len(probes), into)))

        played = await play(reasoner, asking, Encoder(parts, stream, period_s), units, period_s, on_unit)
        await asyncio.gather(*probes)
        await _to_the_end(reasoner, asking, mode)
        box.end(TandemError("over"))
        into.before.append(float(sum(note.tokens for note in await notes)))
    third = units // 3
    into.lags_ms += played.lags_ms
    into.growth_ms.append(
        statistics.median(played.lags_ms[-third:]) - statistics.median(played.lags_ms[third : 2 * third])
    )


async def _asked(
    parts: Parts, mode: WatchMode, seed: int, units: int, period_s: float, into: Measured
) -> None:
    """One stream, played with a second a frame; at its end every question."""
    stream, several = draw_stream(seed, units), draw_stream(seed, units, SEVERAL).questions
    async with serving(parts, _config(parts)) as (reasoner, asking):
        box = _watch(reasoner, mode)
        notes = asyncio.create_task(collect(box))
        await play(reasoner, asking, Encoder(parts, stream, 1.0), units, period_s, lambda _: None)
        await _to_the_end(reasoner, asking, mode)
        for question in stream.questions:
            into.right.append(float((await asking.ask(question, FULL)).right))
        for question in several:
            answered = await asking.ask(question, FULL)
            into.several_right.append(float(answered.right))
            into.several_after.append(float(answered.tokens))
        box.end(TandemError("over"))
        into.before.append(float(sum(note.tokens for note in await notes)))
        into.notes_right += [float(n.text == wanted(stream.timeline, n.time)) for n in await notes]
    if mode not in FEW:
        return
    async with serving(parts, _config(parts, *FEW[mode])) as (reasoner, asking):
        box = _watch(reasoner, mode)
        await play(reasoner, asking, Encoder(parts, stream, 1.0), units, period_s, lambda _: None)
        await _to_the_end(reasoner, asking, mode)
        for question in several:
            answered = await asking.ask(question, FULL)
            into.few_right.append(float(answered.right))
            into.few_in_view.append(float(answered.context))
        box.end(TandemError("over"))


async def _to_the_end(reasoner: Reasoner, asking: Asking, mode: WatchMode) -> None:
    """Until all is written, as at the end of a stream: what is shorter than a segment has a last note."""
    await _quiet(reasoner)
    if mode is not WatchMode.OFF:
        await asking.stub.FinishNotes(reasoner_pb2.FinishNotesRequest(stream_id=STREAM))


def _watch(reasoner: Reasoner, mode: WatchMode) -> ThoughtBox:
    box = ThoughtBox(asyncio.get_running_loop(), 1 << 24)
    if mode is not WatchMode.OFF:
        run_number = reasoner.streams.get(StreamId(STREAM)).run
        reasoner.engine.watch(run_number, StreamId(STREAM), Watching(mode=mode), box)
    return box


async def _quiet(reasoner: Reasoner) -> None:
    """Until the watcher has nothing left to write."""
    async with asyncio.timeout(60):
        while (await reasoner.engine.flush()).questions:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.05)


async def _probe(stub: Any, question: Question, number: int, into: Measured) -> None:
    """A question while the stream plays: when its first token and its end came."""
    wired = types_pb2.Question(
        question_id=f"probe-{number}",
        text=question.text,
        sampling=types_pb2.Sampling(max_tokens=ANSWER_TOKENS),
    )
    began_s, first_s = time.perf_counter(), 0.0
    call = stub.Answer(reasoner_pb2.AnswerRequest(stream_id=STREAM, question=wired))
    while (response := await call.read()) is not grpc.aio.EOF:
        first_s = first_s or time.perf_counter()
        if response.WhichOneof("event") == "final":
            into.after.append(float(response.final.usage.answer_tokens))
    into.first_ms.append(1000 * (first_s - began_s))
    into.answer_ms.append(1000 * (time.perf_counter() - began_s))
