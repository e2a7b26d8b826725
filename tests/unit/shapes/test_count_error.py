"""The loss of heads that count: nothing when they count, about the variance of the count when they err."""

from __future__ import annotations

import math

import pytest
import torch

from tandem.shapes.guides import MOST, count_error

OWN = 3.0


def _attention(frames: list[float], own: float = OWN, sink: float = 0.0) -> torch.Tensor:
    weights = torch.tensor([[sink, *frames, own]])
    return (weights / weights.sum()).clamp(min=1e-13).log()


def _want(counted: list[int]) -> torch.Tensor:
    want = torch.tensor([[0.0, *map(float, counted), OWN]])
    return want / want.sum()


def _costs(extra: float) -> float:
    return MOST * math.log1p(extra / MOST)


def test_a_head_that_counts_loses_nothing() -> None:
    error = count_error(_attention([1, 0, 1, 0, 1]), _want([1, 0, 1, 0, 1]), OWN)
    assert error.item() < 1e-4


def test_uneven_frames_cost_their_summed_squares() -> None:
    log = _attention([1.2, 0, 1.2, 0, 1.2])
    once, thrice = _want([1, 0, 0, 0, 0]), _want([1, 0, 1, 0, 1])
    error = count_error(log, thrice, OWN).item()
    assert abs(error - 3 * torch.tensor(1.2).log().item() ** 2) < 1e-3
    # Frames that should not count cost about what they add to the count, 2.4 of them; much costs less.
    assert abs(count_error(log, once, OWN).item() - error / 3 - _costs(2.4)) < 1e-3


def test_what_goes_to_the_sink_or_elsewhere_is_counted_too() -> None:
    to_sink = count_error(_attention([1, 0, 1], sink=0.5), _want([1, 0, 1]), OWN).item()
    elsewhere = count_error(_attention([1, 0, 1, 0.5])[:, [0, 1, 2, 3, 5]], _want([1, 0, 1]), OWN).item()
    assert abs(to_sink - _costs(0.5)) < 1e-3
    assert abs(elsewhere - _costs(0.5)) < 1e-3


@pytest.mark.parametrize("counted", [[], [0, 3, 9], [*range(40)]])
def test_a_fresh_model_learns_not_to_look_at_what_does_not_count(counted: list[int]) -> None:
    scores = torch.zeros(1, 1502, requires_grad=True)
    want = torch.zeros(1, 1502)
    want[0, -1] = OWN
    want[0, [1 + frame for frame in counted]] = 1.0
    count_error(torch.log_softmax(scores, -1), want / want.sum(), OWN).sum().backward()
    assert scores.grad is not None
    slopes = scores.grad[0]
    uncounted = want[0] == 0
    assert (slopes[uncounted] > 1e-5).all()
    assert slopes[-1] < -0.1
