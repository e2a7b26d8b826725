"""The sliding window: in runs or one by one, rebuilt from blocks, against a single pass over everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from encoder_svc.encode import Run, encode_sink, prefill_runs, see_runs
from encoder_svc.resume import GeometryRun, extend_runs
from encoder_svc.sample import Unit
from encoder_svc.window import Kept, Window
from kv_transfer.block import Block
from tandem.core.blocks import BlockKind
from tandem.core.errors import DataLost, Incompatible
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.view import Part, View
from tests.unit.encoder_svc.media import Rgb, picture
from tests.unit.encoder_svc.rig import model

SOURCES = ["dummy:tiny", "dummy:tiny-timestamped"]
STREAM = StreamId("s")


def make_units(vlm: VisionLanguageModel, count: int, *, change_at: int = 1000) -> list[Unit[Rgb]]:
    per_unit = vlm.prompt.frames_per_unit
    units = []
    for index in range(count):
        size = (64, 48) if index < change_at else (96, 64)
        frames = tuple(picture(index * per_unit + k, *size) for k in range(per_unit))
        units.append(Unit(TimeRange(index * 1_000_000, (index + 1) * 1_000_000), frames))
    return units


def encode(vlm: VisionLanguageModel, window: Window, units: list[Unit[Rgb]], run_units: int) -> list[Block]:
    blocks: list[Block] = []
    for at in range(0, len(units), run_units):
        runs = [Run(STREAM, window, tuple(units[at : at + run_units]))]
        found = prefill_runs(vlm, runs, see_runs(vlm, runs))[0]
        assert isinstance(found, list), found
        blocks += found
    return blocks


def tensors(blocks: list[Block], layer: int) -> torch.Tensor:
    """Keys and values of all blocks of one layer, [2, heads, tokens, dim]."""
    keys = torch.cat([block.keys()[layer] for block in blocks], 1)
    values = torch.cat([block.values()[layer] for block in blocks], 1)
    return torch.stack((keys, values))


def largest_error(left: list[Block], right: list[Block]) -> float:
    errors = []
    for layer in range(left[0].header.layout.layers):
        a, b = tensors(left, layer), tensors(right, layer)
        errors.append(float((a - b).abs().max() / b.abs().max()))
    return max(errors)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("window_units", [3, 100])
def test_runs_equal_one_by_one(source: str, window_units: int) -> None:
    vlm = model(source)
    units = make_units(vlm, 13, change_at=9)
    found = []
    for run_units in (1, 4, 13):
        window = Window(vlm, window_units)
        sink = encode_sink(vlm, STREAM, window)
        found.append([sink, *encode(vlm, window, units, run_units)])
    for other in found[1:]:
        assert [block.key for block in other] == [block.key for block in found[0]]
        assert [block.header.geometry for block in other] == [b.header.geometry for b in found[0]]
        assert largest_error(other, found[0]) < 1e-5


@pytest.mark.parametrize("source", SOURCES)
def test_a_window_over_everything_equals_one_pass(source: str) -> None:
    vlm = model(source)
    units = make_units(vlm, 6)
    window = Window(vlm, 100)
    blocks = [encode_sink(vlm, STREAM, window), *encode(vlm, window, units, 1)]

    prompt = vlm.prompt
    ids = prompt.sink_tokens()
    frames = torch.stack([torch.stack([torch.from_numpy(f) for f in unit.frames]) for unit in units])
    seen = vlm.see(frames)
    embeds = vlm.unit_embeds(seen, [unit.time.start_us for unit in units])
    geometry = prompt.geometry(seen.grid)
    bases = prompt.placement(geometry).place_units(len(units))
    local = prompt.local_positions(geometry)
    positions = [torch.arange(len(ids)).expand(3, -1)]
    positions += [local + torch.tensor(base)[:, None] for base in bases]
    whole = vlm.forward(
        torch.cat((vlm.embed(ids), *embeds)),
        torch.cat(positions, 1),
        View(tail=Part(segment=vlm.new_segment())),
        capture=True,
    )
    assert whole.raw_keys is not None
    assert whole.raw_values is not None
    for layer in range(vlm.layout.layers):
        expected = torch.stack((whole.raw_keys[layer], whole.raw_values[layer]))
        assert torch.allclose(tensors(blocks, layer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_a_unit_sees_the_sink_and_the_window_before_it_and_nothing_else(source: str) -> None:
    """Changing a unit changes the blocks up to `window` later in the first attention layer, and no more."""
    vlm = model(source)
    units = make_units(vlm, 8)
    changed = list(units)
    changed[1] = Unit(units[1].time, tuple(255 - frame for frame in units[1].frames))
    found = []
    for variant in (units, changed):
        window = Window(vlm, 2)
        found.append([encode_sink(vlm, STREAM, window), *encode(vlm, window, variant, 1)])
    # Layer 1 reads what layer 0 attended: one window of reach.
    differs = [not torch.equal(a.keys()[1], b.keys()[1]) for a, b in zip(*found, strict=True)]
    assert differs == [False, False, True, True, True, False, False, False, False]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("stop", [1, 2, 5, 11])
def test_a_window_rebuilt_from_blocks_goes_on_bit_for_bit(source: str, stop: int) -> None:
    vlm = model(source)
    units = make_units(vlm, 15, change_at=7)
    window = Window(vlm, 4)
    whole = [encode_sink(vlm, STREAM, window), *encode(vlm, window, units, 1)]
    runs: list[GeometryRun] = []
    for number, block in enumerate(whole[1:stop]):
        extend_runs(runs, number, block.header.geometry)
    kept = Kept(whole[0], tuple(whole[max(1, stop - 4) : stop]), stop, tuple(runs))
    again = Window(vlm, 4)
    again.restore(kept)
    rest = encode(vlm, again, units[stop - 1 :], 1)
    assert [block.key for block in rest] == [block.key for block in whole[stop:]]
    for a, b in zip(rest, whole[stop:], strict=True):
        assert torch.equal(a.payload, b.payload)


def test_a_window_without_its_header_differs_by_rounding_only() -> None:
    vlm = model()
    units = make_units(vlm, 12)
    window = Window(vlm, 4)
    whole = [encode_sink(vlm, STREAM, window), *encode(vlm, window, units, 1)]
    again = Window(vlm, 4)
    again.restore(Kept(None, tuple(whole[5:9]), 9, ()))
    assert largest_error(encode(vlm, again, units[8:], 2), whole[9:]) < 1e-5


def test_what_was_evicted_shortens_the_window() -> None:
    vlm = model()
    again = Window(vlm, 4)
    again.restore(Kept(None, (), 9, ()))
    blocks = encode(vlm, again, make_units(vlm, 3), 3)
    assert [block.key.number for block in blocks] == [9, 10, 11]


def test_blocks_that_are_not_the_last_ones_are_refused() -> None:
    vlm = model()
    window = Window(vlm, 4)
    whole = [encode_sink(vlm, STREAM, window), *encode(vlm, window, make_units(vlm, 6), 1)]
    with pytest.raises(DataLost):
        Window(vlm, 4).restore(Kept(whole[0], tuple(whole[2:4]), 6, ()))


def test_many_units_do_not_grow_the_window() -> None:
    vlm = model()
    window = Window(vlm, 2)
    encode_sink(vlm, STREAM, window)
    sizes = set()
    for _ in range(12):
        encode(vlm, window, make_units(vlm, 8), 8)
        sizes.add(window.nbytes)
    assert len(sizes) <= 3
    assert max(sizes) < 4 * min(sizes)


def test_streams_together_equal_streams_alone() -> None:
    vlm = model()
    alone = []
    for size in (5, 3):
        window = Window(vlm, 3)
        encode_sink(vlm, STREAM, window)
        alone.append(encode(vlm, window, make_units(vlm, size, change_at=size - 2), 1))
    runs = []
    for size in (5, 3):
        window = Window(vlm, 3)
        encode_sink(vlm, STREAM, window)
        runs.append(Run(STREAM, window, tuple(make_units(vlm, size, change_at=size - 2))))
    together = prefill_runs(vlm, runs, see_runs(vlm, runs))
    for left, right in zip(together, alone, strict=True):
        assert isinstance(left, list), left
        assert largest_error(left, right) < 1e-5


def test_blocks_of_another_kind_geometry_or_model_are_refused() -> None:
    vlm = model()
    window = Window(vlm, 4)
    sink, unit = encode_sink(vlm, STREAM, window), encode(vlm, window, make_units(vlm, 1), 1)[0]

    def changed(block: Block, **changes: object) -> Block:
        return Block(replace(block.header, **changes), block.payload)  # type: ignore[arg-type]

    odd = replace(unit.header.geometry, text_before=unit.header.tokens, grid_t=0, grid_h=0, grid_w=0)
    odd = replace(odd, text_after=0)
    flat = replace(sink.header.geometry, text_before=0, text_after=sink.header.tokens)
    for kept, error in (
        (Kept(changed(sink, kind=BlockKind.TEXT), (unit,), 2, ()), DataLost),
        (Kept(changed(sink, geometry=flat), (unit,), 2, ()), DataLost),
        (Kept(sink, (changed(unit, kind=BlockKind.SINK),), 2, ()), DataLost),
        (Kept(sink, (changed(unit, geometry=odd),), 2, ()), DataLost),
        (Kept(sink, (changed(unit, fingerprint="f" * 32),), 2, ()), Incompatible),
    ):
        with pytest.raises(error):
            Window(vlm, 4).restore(kept)
