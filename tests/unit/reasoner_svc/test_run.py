"""The device-resident run: appended once, read through snapshots, its front dropped without re-rotation."""

from __future__ import annotations

import pytest
import torch

from kv_transfer.block import Block
from reasoner_svc.view.lease import Lease
from reasoner_svc.view.run import StreamRun
from tandem.core.errors import DataLost, Internal, WrongState
from tandem.core.ids import StreamId
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.view import Part, View
from tests.unit.reasoner_svc.making import SECOND_US, encode_clip, make_frames

CAM = StreamId("cam")
QUESTION = "what is shown?"
MANY = 10**6


def run_of(model: VisionLanguageModel, blocks: list[Block], view_tokens: int = MANY) -> StreamRun:
    run = StreamRun(model, CAM, view_tokens)
    for block in blocks:
        run.append(block)
    return run


def ask(model: VisionLanguageModel, run: StreamRun, lease: Lease) -> torch.Tensor:
    """Logits after the question."""
    ids = model.prompt.question_tokens(QUESTION)
    positions = torch.tensor(lease.plan.question_base)[:, None] + torch.arange(len(ids))
    view = View(parts=run.parts(lease, len(ids)), tail=Part(segment=model.new_segment()))
    return model.logits(model.forward(model.embed(ids), positions, view).hidden[-1])


def lease_of(model: VisionLanguageModel, run: StreamRun, as_of_us: int = 0) -> Lease:
    return run.lease(prompt_tokens=len(model.prompt.question_tokens(QUESTION)), as_of_us=as_of_us)


def reference(model: VisionLanguageModel, sink: Block, visual: list[Block]) -> torch.Tensor:
    """The same blocks as a stream of their own: rotated from their raw keys at contiguous positions."""
    run = StreamRun(model, CAM, MANY)
    run.append(sink)
    for block in visual:
        run.append(block)
    return ask(model, run, lease_of(model, run))


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, 7))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_no_view_before_the_first_block(model: VisionLanguageModel, blocks: list[Block]) -> None:
    run = run_of(model, [])
    with pytest.raises(WrongState):
        lease_of(model, run)
    run.append(blocks[0])
    with pytest.raises(WrongState):
        lease_of(model, run)
    run.append(blocks[1])
    assert lease_of(model, run).plan.blocks == 1


def test_a_view_does_not_change_when_blocks_arrive(model: VisionLanguageModel, blocks: list[Block]) -> None:
    run = run_of(model, blocks[:4])
    lease = lease_of(model, run)
    before = ask(model, run, lease)
    for block in blocks[4:]:
        run.append(block)
    assert torch.equal(ask(model, run, lease), before)
    later = ask(model, run, lease_of(model, run))
    assert not torch.allclose(later, before)


def test_a_view_without_its_front_equals_contiguous_placement(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    tokens = blocks[1].header.tokens
    run = run_of(model, blocks, view_tokens=3 * tokens)
    lease = lease_of(model, run)
    assert lease.plan.numbers == (5, 8)
    assert lease.plan.evidence[0].start_us == blocks[5].header.time.start_us
    assert close(ask(model, run, lease), reference(model, blocks[0], blocks[5:]))


def test_it_does_not_drift_however_far_the_stream_has_run(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    tokens = blocks[1].header.tokens
    run = run_of(model, blocks[:2], view_tokens=3 * tokens)
    for turn in range(400):
        number, source = turn + 2, blocks[1 + turn % 7]
        run.append(renumbered(source, number))
    lease = lease_of(model, run)
    seen = [blocks[1 + (number - 2) % 7] for number in range(*lease.plan.numbers)]
    visual = [renumbered(block, number) for number, block in enumerate(seen, 1)]
    assert close(ask(model, run, lease), reference(model, blocks[0], visual))
    assert run.nbytes < 40 * blocks[1].header.payload_bytes, "memory follows the view, not the stream"


def renumbered(block: Block, number: int) -> Block:
    fields = {name: getattr(block.header, name) for name in block.header.__dataclass_fields__}
    key = block.key.__class__(block.key.stream, number)
    return Block(block.header.__class__(**{**fields, "key": key}), block.payload)


def test_a_question_as_of_the_past_sees_the_past(model: VisionLanguageModel, blocks: list[Block]) -> None:
    run = run_of(model, blocks)
    third = blocks[3].header.time
    lease = lease_of(model, run, as_of_us=third.end_us)
    assert lease.plan.numbers == (1, 4)
    assert close(ask(model, run, lease), reference(model, blocks[0], blocks[1:4]))


def test_what_a_question_reads_stays_until_it_ends(model: VisionLanguageModel, blocks: list[Block]) -> None:
    tokens = blocks[1].header.tokens
    run = run_of(model, blocks[:4], view_tokens=3 * tokens)
    lease = lease_of(model, run)
    before = ask(model, run, lease)
    run.append(blocks[4])
    run.forget_before(4)
    assert run.blocks == 1
    newer = lease_of(model, run)
    assert newer.plan.numbers == (4, 5)
    assert torch.equal(ask(model, run, lease), before), "an older view still reads what left the front"
    assert close(ask(model, run, newer), reference(model, blocks[0], blocks[4:5])), "a newer one does not"
    run.release(lease)
    with pytest.raises(Internal, match="without a lease"):
        run.parts(lease, 1)
    assert close(ask(model, run, newer), reference(model, blocks[0], blocks[4:5]))
    run.release(newer)
    assert run.leases == 0


def test_evicted_blocks_are_in_no_later_view(model: VisionLanguageModel, blocks: list[Block]) -> None:
    run = run_of(model, blocks[:4])
    run.forget_before(3)
    lease = lease_of(model, run)
    assert lease.plan.numbers == (3, 4)
    with pytest.raises(DataLost):
        lease_of(model, run, as_of_us=SECOND_US // 2)
    run.forget_before(9)
    with pytest.raises(DataLost, match="left memory"):
        lease_of(model, run)


def test_foreign_and_repeated_blocks_are_never_appended(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    run = StreamRun(model, StreamId("other"), MANY)
    with pytest.raises(Internal, match="fed to the run"):
        run.append(blocks[0])
    run = run_of(model, blocks[:2])
    with pytest.raises(AssertionError, match="twice"):
        run.append(blocks[1])


def test_a_single_block_larger_than_the_budget_is_still_seen(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    run = run_of(model, blocks, view_tokens=1)
    assert lease_of(model, run).plan.numbers == (7, 8)
