"""Greedy, temperature, nucleus; reproducible."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.sampler import Sampler, nucleus
from tandem.core.errors import BadQuestion

LOGITS = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])


def draw(params: SamplingParams, count: int, logits: torch.Tensor = LOGITS) -> list[int]:
    sampler = Sampler(params)
    return [sampler.choose(logits) for _ in range(count)]


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    assert draw(SamplingParams(), 3) == [2, 2, 2]
    assert draw(SamplingParams(), 1, torch.tensor([1.0, 3.0, 3.0])) == [1]


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    params = SamplingParams(temperature=1.0, seed=7)
    assert draw(params, 50) == draw(params, 50)
    assert draw(params, 50) != draw(SamplingParams(temperature=1.0, seed=8), 50)


def test_two_questions_do_not_disturb_each_other() -> None:
    alone = draw(SamplingParams(temperature=1.0, seed=7), 20)
    one, other = Sampler(SamplingParams(temperature=1.0, seed=7)), Sampler(SamplingParams(temperature=1.5))
    mixed = []
    for _ in range(20):
        mixed.append(one.choose(LOGITS))
        other.choose(LOGITS)
        torch.rand(3)
    assert mixed == alone


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, 0.8), (1.0, 0.5)]
)
def test_frequencies_follow_the_probabilities(temperature: float, top_p: float) -> None:
    count = 4000
    expected = nucleus(LOGITS.double() / temperature, top_p)
    drawn = draw(SamplingParams(temperature=temperature, top_p=top_p, seed=1), count)
    for token, probability in enumerate(expected.tolist()):
        # Four standard deviations: one run in a few thousand would fail, and the seed is fixed.
        slack = 4 * math.sqrt(max(probability * (1 - probability), 1e-9) / count)
        assert abs(drawn.count(token) / count - probability) <= slack


def test_the_nucleus_is_the_smallest_set_that_reaches_the_mass() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log()
    assert nucleus(logits, 0.5).nonzero().flatten().tolist() == [0]
    assert nucleus(logits, 0.51).nonzero().flatten().tolist() == [0, 1]
    assert nucleus(logits, 0.96).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert nucleus(logits, 1e-9).tolist() == [1, 0, 0, 0]


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=20), st.floats(0.01, 1), st.integers(0, 2**64 - 1))
def test_a_token_outside_the_nucleus_is_never_drawn(values: list[float], top_p: float, seed: int) -> None:
    logits = torch.tensor(values)
    allowed = set(nucleus(logits.double(), top_p).nonzero().flatten().tolist())
    params = SamplingParams(temperature=1.0, top_p=top_p, seed=seed)
    assert set(draw(params, 5, logits)) <= allowed


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": math.nan},
        {"top_p": 0.0},
        {"top_p": -0.5},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadQuestion):
        SamplingParams(**options)  # type: ignore[arg-type]


def test_the_largest_seed_works() -> None:
    assert len(draw(SamplingParams(temperature=1.0, seed=2**64 - 1), 3)) == 3
