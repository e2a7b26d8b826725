"""k workers in each layout against a slow reference that builds every worker's cache anew for every step."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, RetrievalWish
from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.workers.layouts import Layout
from reasoner_svc.workers.rules import Over, Rules
from reasoner_svc.workers.templates import Template, make_prompts
from reasoner_svc.workers.wish import WorkersWish
from tandem.core.clock import monotonic_clock
from tandem.core.ids import QuestionId, StreamId
from tandem.vlm.load import load_model
from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.unsplit import stock_model
from tandem.wire.gen.tandem.v1 import reasoner_pb2
from tests.parity.literal_hogwild import Context, LiteralHogwild, Play, play
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, serve

pytestmark = pytest.mark.timeout(300)
UNITS, RECENT, RECALLED = 8, 3, 2
TOLERANCE = 1e-4
MARKED = Template(
    intro="{worker}:",
    step="({worker} {step})",
    check="{others}?",
    others="<>",
    own="..",
    answer="\n{question}{turn}",
)
PLAIN = Template()
TEMPLATES = {"marked": MARKED, "plain": PLAIN}


class Wordy:
    """A prompt layout whose tokens often are sentence ends and blank lines; the rest of it is the model's."""

    def __init__(self, prompt: Any, *ends: int) -> None:
        self._prompt = prompt
        self.eos_ids = frozenset(ends)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prompt, name)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join({0: "e.\n\n", 1: "\n\n", 2: "d?"}.get(token % 24, "x ") for token in token_ids)


def ends_step(in_step: Sequence[int]) -> bool:
    """The same by numbers."""
    kinds = [token % 24 for token in in_step[-2:]]
    return kinds[-1] == 0 or kinds == [2, 1]


class Recording:
    """The model; it keeps the logits it gave, and what was retrieved."""

    def __init__(self, model: Any, *ends: int) -> None:
        self._model = model
        self.prompt = Wordy(model.prompt, *ends)
        self.rows: list[Tensor] = []
        self.recalled: LayeredSegment | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward_many(self, steps: Any) -> Any:
        for part in steps[0].view.parts:
            if isinstance(part.segment, LayeredSegment):
                self.recalled = part.segment
        return self._model.forward_many(steps)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self._model.logits(hidden)
        self.rows += list(logits)
        return logits


@pytest.fixture(scope="module", params=["dummy:tiny"])
def model(request: pytest.FixtureRequest) -> Any:
    return load_model(request.param)


@pytest.fixture(scope="module")
def stock(model: Any) -> Any:
    return stock_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: Any) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def wish(model: Any, layout: str, count: int, template: Template, tokens: int, **options: Any) -> WorkersWish:
    bare = model.prompt.question_tokens("what?")
    return WorkersWish(
        layout=Layout(layout),
        # No nucleus: a token at its edge comes or goes with the last bit of a probability.
        sampling=tuple(SamplingParams(temperature=0.6 + 0.1 * w, seed=100 + w) for w in range(count)),
        rules=Rules(
            max_tokens=tokens,
            step_tokens=options.get("step_tokens", 40),
            check_every=options.get("check_every", 25),
        ),
        over=options.get("over", Over.ALL),
        template=template,
        prompts=make_prompts(template, count, model.prompt, bare, 10**6),
    )


def asked_of(model: Any, workers: WorkersWish | None, max_tokens: int = 16, **options: Any) -> AskedQuestion:
    prompt_ids = tuple(model.prompt.question_tokens("what?"))
    return AskedQuestion(
        **{
            "stream": StreamId("cam"),
            "question_id": QuestionId("q"),
            "run": 1,
            "prompt_ids": workers.prompts.prompt_ids if workers else prompt_ids,
            "sampling": SamplingParams(temperature=0.9, seed=5),
            "stops": (),
            "max_tokens": max_tokens,
            "as_of_us": 0,
            "arrived_s": monotonic_clock(),
            "workers": workers,
            "retrieval": RetrievalWish(span=model.prompt.question_span(prompt_ids)),
            **options,
        }
    )


async def ours(
    recording: Recording, blocks: list[Block], asked: AskedQuestion, **settings: Any
) -> AnswerRecord:
    async with serve(recording, **{"view_tokens": 10**6, "retrieve_blocks": 0, **settings}) as s:  # type: ignore[arg-type]
        await s.open()
        s.publish(*blocks)
        return await answered(s, asked)


async def answered(s: Serving, asked: AskedQuestion) -> AnswerRecord:
    outbox = Outbox(asyncio.get_running_loop(), 10**6)
    s.reasoner.engine.ask(asked, outbox)
    async with asyncio.timeout(100):
        while not isinstance(out := await outbox.get(), AnswerRecord):
            pass
    await s.idle()
    return out


def context(model: Any, stock: Any, blocks: list[Block], found: LayeredSegment | None = None) -> Context:
    """Sink, what was retrieved behind it, and the newest blocks, rotated from raw keys at explicit places."""
    prompt, text = model.prompt, stock.model.language_model
    visual = blocks[1:] if found is None else blocks[-RECENT:]
    places = [] if found is None else [blocks[1].header.geometry] * RECALLED
    bases = prompt.placement().place_units([*places, *(block.header.geometry for block in visual)])
    chosen = [(blocks[0], (0, 0, 0)), *zip(visual, bases[len(places) :], strict=True)]
    keys: list[list[Tensor]] = [[] for _ in text.layers]
    values: list[list[Tensor]] = [[] for _ in text.layers]
    for block, base in chosen:
        positions = prompt.local_positions(block.header.geometry) + torch.tensor(base)[:, None]
        cos, sin = text.rotary_emb(block.keys(), positions[:, None])
        for layer, (key, value) in enumerate(zip(block.keys(), block.values(), strict=True)):
            first, second = key.chunk(2, -1)
            keys[layer].append(key * cos + torch.cat((-second, first), -1) * sin)
            values[layer].append(value)
    if found is not None:
        for layer, (key, value) in enumerate(zip(*found.columns(0, 0), strict=True)):
            keys[layer].append(key)
            values[layer].append(value)
    return Context([torch.cat(part, 1) for part in keys], [torch.cat(part, 1) for part in values])


def theirs(
    recording: Recording, stock: Any, seen: Context, record: AnswerRecord, asked: AskedQuestion
) -> Any:
    workers, plan = asked.workers, record.plan
    assert workers is not None
    math = LiteralHogwild(stock, seen, plan.answer_start)
    samplers = {w: Sampler(params) for w, params in enumerate(workers.sampling)} | {
        -1: Sampler(asked.sampling)
    }
    prompt = recording.prompt

    def opening(worker: int, step: int, checks: bool) -> list[int]:
        template = workers.template
        text = template.intro if step == 1 else template.step
        text += template.check if checks else ""
        others = ", ".join(str(other + 1) for other in range(workers.count) if other != worker)
        text = (
            text.replace("{worker}", str(worker + 1)).replace("{step}", str(step)).replace("{others}", others)
        )
        return prompt.encode_text(text)

    told = Play(
        layout=workers.layout.value,
        workers=workers.count,
        max_tokens=workers.rules.max_tokens,
        step_tokens=workers.rules.step_tokens,
        check_every=workers.rules.check_every,
        first_ends_it=workers.over is Over.FIRST,
        others_header=prompt.encode_text(workers.template.others),
        own_header=prompt.encode_text(workers.template.own),
        answer_opening=workers.prompts.answer_ids,
        answer_tokens=asked.max_tokens,
        opening=opening,
        ends_step=ends_step,
        ends_turn=lambda token: token in prompt.eos_ids,
        choose=lambda worker, row: samplers[worker].choose(row),
    )
    behind = math.read_prompt(asked.prompt_ids, torch.tensor(plan.question_base))
    return play(math, told, behind)


def compare(
    recording: Recording, stock: Any, seen: Context, record: AnswerRecord, asked: AskedQuestion
) -> int:
    """Every choice had the reference's logits; returns how many there were."""
    count = 0
    for _, row, workers in theirs(recording, stock, seen, record, asked):  # noqa: B007 (the last ones)
        ours_row = recording.rows[count]
        assert float((ours_row - row).abs().max()) < TOLERANCE * float(row.abs().max()), count
        count += 1
    assert count == len(recording.rows)
    assert [list(worker.token_ids) for worker in record.workers] == [worker.generated for worker in workers]
    assert [worker.finish.value for worker in record.workers] == [worker.why for worker in workers]
    return count


ENDS = (7, 33, 101, 180)
"""Tokens that end a turn, where a test has any: one in seventy."""


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", [layout.value for layout in Layout])
async def test_workers_equal_caches_that_are_built_anew(
    model: Any, stock: Any, blocks: list[Block], layout: str, count: int
) -> None:
    recording = Recording(model)
    workers = wish(recording, layout, count, MARKED, 256)
    asked = asked_of(recording, workers)
    record = await ours(recording, blocks, asked)
    choices = compare(recording, stock, context(model, stock, blocks), record, asked)
    assert choices == count * 256 + asked.max_tokens
    assert all(worker.steps > 6 and worker.checks > 3 for worker in record.workers)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("over", list(Over))
@pytest.mark.parametrize("layout", [layout.value for layout in Layout])
async def test_workers_that_end_their_turns(
    model: Any, stock: Any, blocks: list[Block], layout: str, over: Over, template: str
) -> None:
    seen = context(model, stock, blocks)
    finishes: set[str] = set()
    for count, tokens in ((3, 40), (2, 90)):
        recording = Recording(model, *ENDS)
        workers = wish(recording, layout, count, TEMPLATES[template], tokens, over=over, step_tokens=0)
        asked = asked_of(recording, workers)
        record = await ours(recording, blocks, asked)
        compare(recording, stock, seen, record, asked)
        finishes |= {worker.finish.value for worker in record.workers}
    assert "end" in finishes


@pytest.mark.parametrize("blocks_back", [UNITS, RECALLED])
@pytest.mark.parametrize("layout", [layout.value for layout in Layout])
async def test_workers_see_what_was_recalled(
    model: Any, stock: Any, blocks: list[Block], layout: str, blocks_back: int
) -> None:
    """Recalling everything is the whole stream; else layers differ in what they see."""
    recording = Recording(model, *ENDS)
    workers = wish(recording, layout, 3, MARKED, 60, step_tokens=9)
    asked = asked_of(recording, workers)
    view_tokens = RECENT * blocks[-1].header.tokens
    record = await ours(recording, blocks, asked, view_tokens=view_tokens, retrieve_blocks=blocks_back)
    assert record.recall is not None
    assert recording.recalled is not None
    found = None if blocks_back == UNITS else recording.recalled
    if found is not None:
        assert len({block.layers for block in record.recall.blocks.values()}) > 1, "layers agree: a weak test"
    seen = context(model, stock, blocks, found)
    compare(recording, stock, seen, record, asked)


@pytest.mark.parametrize("layout", [layout.value for layout in Layout])
async def test_workers_over_blocks_that_left_memory_and_came_from_two_encoders(
    model: Any, stock: Any, layout: str, tmp_path: Path
) -> None:
    """Most of what they see is read back from disk, and the encoder was lost in the middle of the stream."""
    clip, recording = encode_clip(model, make_frames(model, 3 * UNITS)), Recording(model)
    workers = wish(recording, layout, 4, MARKED, 64)
    asked = asked_of(recording, workers)
    settings = {"data_dir": str(tmp_path), "ram_bytes": max(65_536, 5 * clip[1].header.payload_bytes)}
    view_tokens = RECENT * clip[-1].header.tokens
    async with serve(recording, view_tokens=view_tokens, retrieve_blocks=len(clip), **settings) as s:  # type: ignore[arg-type]
        await s.open()
        for number, block in enumerate(clip):
            if number == len(clip) // 2:
                await s.stub.OpenStream(reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=2))
            s.publish(block)
            await s.until(lambda: s.reasoner.store.unwritten == 0)
        held = s.reasoner.store.directory.stream(StreamId("cam"))
        assert sum(entry.ram is not None for entry in held) <= len(held) // 2
        record = await answered(s, asked)
    assert record.recall is not None
    assert record.recall.disk_bytes > record.recall.loaded_bytes // 3
    assert compare(recording, stock, context(model, stock, clip), record, asked) == 4 * 64 + asked.max_tokens


@pytest.mark.parametrize("layout", [layout.value for layout in Layout])
async def test_one_worker_writes_what_plain_decoding_writes(
    model: Any, blocks: list[Block], layout: str
) -> None:
    plain = Recording(model)
    sampling = SamplingParams(temperature=0.9, top_p=0.95, seed=11)
    alone = await ours(plain, blocks, asked_of(plain, None, 300, sampling=sampling))
    recording = Recording(model)
    one = wish(recording, layout, 1, PLAIN, 300, step_tokens=12)
    one = dataclasses.replace(one, sampling=(sampling,))
    record = await ours(recording, blocks, asked_of(recording, one))
    assert record.workers[0].token_ids == alone.token_ids
    assert len(alone.token_ids) == 300
    for ours_row, row in zip(recording.rows, plain.rows, strict=False):
        assert float((ours_row - row).abs().max()) < TOLERANCE * float(row.abs().max())


@pytest.mark.parametrize("layout", [layout.value for layout in Layout])
async def test_workers_behind_a_video_whose_positions_all_advance(layout: str) -> None:
    """The other prompt layout, with units that are videos of their own."""
    model, stock = load_model("dummy:tiny-timestamped"), stock_model("dummy:tiny-timestamped")
    clip = encode_clip(model, make_frames(model, UNITS))
    recording = Recording(model)
    workers = wish(recording, layout, 3, MARKED, 40)
    asked = asked_of(recording, workers)
    record = await ours(recording, clip, asked)
    assert compare(recording, stock, context(model, stock, clip), record, asked) == 3 * 40 + asked.max_tokens
