"""Backends agree with the reference on every kind of view; batching readers changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tandem.vlm.load import load_model
from tandem.vlm.model import Step
from tandem.vlm.view import Part, View
from tests.parity.split_pipeline import relative_error, text_positions

BACKENDS = ["cpu", "plain"]


def filled(model, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (model.layout.layers, model.layout.kv_heads, tokens, model.layout.head_dim)
    segment = model.new_segment(capacity=4)
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    segment.append_raw(keys, values, text_positions(0, tokens))
    return segment


def embeds(model, tokens, seed):
    hidden = model.hf.config.text_config.hidden_size
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(seed))


def sink_and_window(model):
    tokens, window = 12, filled(model, 20, 2)
    window.drop_front(3)
    bounds = torch.tensor([3] * 4 + [9] * 4 + [20] * 3 + [23])
    sink = Part(segment=filled(model, 5, 1), base=torch.arange(tokens).expand(3, -1) * 2)
    view = View(parts=(sink,), tail=Part(segment=window, first_visible=bounds))
    return [Step(embeds=embeds(model, tokens, 3), positions=text_positions(40, tokens), view=view)]


def long_prefill(model):
    view = View(parts=(Part(segment=filled(model, 700, 1)),), tail=Part(segment=model.new_segment()))
    return [Step(embeds=embeds(model, 90, 3), positions=text_positions(700, 90), view=view)]


def bounded_part(model):
    part = Part(segment=filled(model, 30, 1), end=17, first_visible=torch.tensor([0, 0, 16, 17, 30]))
    view = View(parts=(part,), tail=Part(segment=filled(model, 2, 4), base=(30, 31, 29)))
    return [Step(embeds=embeds(model, 5, 3), positions=text_positions(33, 5), view=view)]


def half_hidden_part(model):
    """As many partial results as slots, but one of them is for some queries only."""
    part = Part(segment=filled(model, 9, 1), first_visible=torch.tensor([9, 9, 0, 0]))
    view = View(parts=(part,), tail=Part(segment=model.new_segment(), base=(9, 9, 9)))
    return [Step(embeds=embeds(model, 4, 3), positions=text_positions(9, 4), view=view)]


def workers(model, all_of_all=False):
    """Three workers over one prefix: each sees the others' tails elsewhere, newest tokens included."""
    prefix = filled(model, 40, 1)
    tails = [filled(model, 3 + i, 10 + i) for i in range(3)]
    steps = []
    for me in range(3):
        others = tuple(
            Part(
                segment=tails[i],
                base=(40 + 9 * i, 40 + 9 * i, 40 + 9 * i),
                end=tails[i].end + (all_of_all or i < me),
            )
            for i in range(3)
            if i != me
        )
        at = 70 + me
        view = View(
            parts=(Part(segment=prefix), *others), tail=Part(segment=tails[me], base=(at - 3 - me,) * 3)
        )
        steps.append(Step(embeds=embeds(model, 1, 20 + me), positions=text_positions(at, 1), view=view))
    return steps


def equal_workers(model):
    """Workers who all see all of each other: every read serves all of them."""
    return workers(model, all_of_all=True)


def mixed(model):
    """A prefill and a decode step in one call."""
    return [*long_prefill(model), *workers(model), *sink_and_window(model), *equal_workers(model)]


def some_heads(model):
    """Parts that some heads see in some layers, beside the same tokens for all heads of another reader."""
    prefix, tail = filled(model, 30, 1), filled(model, 9, 2)
    only = (((0, 1),), (), ((1, 2),))
    parts = (
        Part(segment=prefix, end=4),
        Part(segment=prefix, first_visible=torch.tensor([4]), end=25, heads=only),
        Part(segment=prefix, first_visible=torch.tensor([25])),
        Part(segment=tail, base=(30, 30, 30), end=6, heads=only),
    )
    view = View(parts=parts, tail=Part(segment=tail, base=(30, 30, 30), first_visible=torch.tensor([6])))
    whole = Part(segment=prefix, first_visible=torch.tensor([4, 4]), end=25)
    other = View(parts=(whole,), tail=Part(segment=model.new_segment()))
    return [
        Step(embeds=embeds(model, 1, 3), positions=text_positions(39, 1), view=view),
        Step(embeds=embeds(model, 2, 4), positions=text_positions(30, 2), view=other),
    ]


def captured(steps):
    return [replace(step, capture=True) for step in steps]


CASES = [
    sink_and_window,
    long_prefill,
    bounded_part,
    half_hidden_part,
    workers,
    equal_workers,
    mixed,
    some_heads,
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference(case, backend):
    model, reference = (
        load_model("dummy:tiny", backend=backend),
        load_model("dummy:tiny", backend="reference"),
    )
    ours = model.forward_many(captured(case(model)))
    theirs = reference.forward_many(captured(case(reference)))
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine.hidden, other.hidden) < 1e-5
        assert relative_error(mine.raw_keys, other.raw_keys) < 1e-5
        assert relative_error(mine.raw_values, other.raw_values) < 1e-5


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_batching_readers_changes_nothing(backend):
    model = load_model("dummy:tiny", backend=backend)
    together = model.forward_many([*long_prefill(model), *sink_and_window(model), *bounded_part(model)])
    alone = [model.forward_many(case(model))[0] for case in (long_prefill, sink_and_window, bounded_part)]
    for one, many in zip(alone, together, strict=True):
        assert relative_error(many.hidden, one.hidden) < 1e-5


def test_a_workers_view_equals_one_materialised_cache():
    """The slow way: all that a worker sees in one cache, each key rotated where the worker sees it."""
    model = load_model("dummy:tiny")
    layout, at = model.layout, 75
    pieces = [(40, (0, 0, 0)), (6, (40, 52, 44)), (9, (61, 50, 57)), (3, (72, 72, 72))]
    cache, segments = model.new_segment(), []
    for seed, (tokens, base) in enumerate(pieces):
        generator = torch.Generator().manual_seed(seed)
        shape = (layout.layers, layout.kv_heads, tokens, layout.head_dim)
        keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
        segments.append(model.new_segment())
        segments[-1].append_raw(keys, values, text_positions(0, tokens))
        cache.append_raw(keys, values, text_positions(0, tokens) + torch.tensor(base)[:, None])
    *parts, tail = (
        Part(segment=segment, base=base) for segment, (_, base) in zip(segments, pieces, strict=True)
    )
    for step in range(3):
        new, positions = embeds(model, 1, step), text_positions(at + step, 1)
        ours = model.forward(new, positions, View(parts=tuple(parts), tail=tail)).hidden
        theirs = model.forward(new, positions, View(tail=Part(segment=cache))).hidden
        assert relative_error(ours, theirs) < 1e-5


def test_a_shared_prefix_is_one_read():
    from tandem.vlm.planning import make_plan

    model = load_model("dummy:tiny")
    steps = workers(model)
    plan = make_plan(model.rope, [(step.positions, step.view) for step in steps], model.device)
    assert max(sum(rows.end - rows.start for rows in read.rows) for read in plan.rectangles) == 3
    # The prefix, each tail by its owner, and each tail as two others see it (bounds differ with the step).
    assert len(plan.rectangles) <= 1 + 3 + 6


def test_workers_who_see_all_of_each_other_are_one_span_of_each_read():
    from tandem.vlm.planning import make_plan

    model = load_model("dummy:tiny")
    steps = equal_workers(model)
    plan = make_plan(model.rope, [(step.positions, step.view) for step in steps], model.device)
    # The prefix and each tail; no row is sorted in by itself.
    assert [len(read.rows) for read in plan.rectangles] == [1] * 4
    assert [(rows.token, rows.end - rows.start) for read in plan.rectangles for rows in read.rows] == [
        (0, 3)
    ] * 4


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("case", [mixed, some_heads])
def test_the_log_sum_exp_is_that_of_all_that_a_query_saw(case, backend):
    """It is told to who asks, layer by layer, and asking changes nothing."""

    def run(model, asks):
        told, steps = {}, case(model)
        for number, step in enumerate(steps):

            def tell(layer, queries, lse, scale, number=number):
                told[number, layer] = (queries.clone(), lse.clone(), scale)

            if asks and number % 2 == 0:
                steps[number] = replace(step, view=replace(step.view, after_layer=tell))
        return told, model.forward_many(steps)

    model = load_model("dummy:tiny", backend=backend)
    told, asked = run(model, asks=True)
    expected, _ = run(load_model("dummy:tiny", backend="reference"), asks=True)
    assert set(told) == set(expected)
    assert len({layer for _, layer in told}) == 3
    for key, (queries, lse, scale) in told.items():
        assert relative_error(queries, expected[key][0]) < 1e-5
        assert float((lse - expected[key][1]).abs().max()) < 1e-5
        assert scale == expected[key][2]
    for one, other in zip(asked, run(model, asks=False)[1], strict=True):
        assert torch.equal(one.hidden, other.hidden)


def test_the_hook_sees_raw_queries_of_its_own_step_before_the_layer_reads():
    model = load_model("dummy:tiny")
    calls = []
    private = filled(model, 6, 1)
    zero = private.snapshot().values_LHCD

    def retrieve(layer, queries):
        calls.append((layer, tuple(queries.shape)))
        zero[layer] = 0.0

    view = View(parts=(Part(segment=private),), tail=Part(segment=model.new_segment()), before_layer=retrieve)
    with_hook = model.forward(embeds(model, 4, 3), text_positions(6, 4), view)
    assert calls == [(layer, (4, 4, 16)) for layer in range(3)]
    again = View(parts=(Part(segment=private),), tail=Part(segment=model.new_segment()))
    assert torch.equal(
        model.forward(embeds(model, 4, 3), text_positions(6, 4), again).hidden, with_hook.hidden
    )
