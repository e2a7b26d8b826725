"""Tensor. Some heads see everything, the others a sink and what is recent (RLKV, arXiv 2510.08525).

::

    full heads        sink | recalled | run | notes | prompt | generated text ........ newest
    the others        sink                                                     recent newest

Which heads need everything is found by training and comes in a file. Prompts are read by all heads alike; the
classes begin with the first generated token. Nothing is copied or moved: the others' reads are shorter parts
of the same segments. Knows no streams; one generated token a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.segment import Segment
from tandem.vlm.view import HeadRuns, Part

Scores = tuple[tuple[float, ...], ...]
"""Per layer and key/value head: how much it needs everything, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadClasses:
    """What one question wants."""

    full: HeadRuns
    """Heads that see everything."""
    sink: int
    """First tokens that the others see; of the view, or of the generated text."""
    recent: int
    """Newest tokens that the others see, the one that looks included; at least 1."""
    whole_view: bool
    """The others see nothing else of the view; False: only the generated text is cut for them."""


def full_heads(scores: Scores, sparsity: float) -> HeadRuns:
    """The heads that stay full when a share `sparsity` of all, those with the lowest scores, does not.

    Of equal scores the earlier heads go first.
    """
    ranked = sorted(
        (score, layer, head) for layer, row in enumerate(scores) for head, score in enumerate(row)
    )
    cut = {(layer, head) for _, layer, head in ranked[: int(sparsity * len(ranked) + 1e-9)]}
    return tuple(
        _runs([head for head in range(len(row)) if (layer, head) not in cut])
        for layer, row in enumerate(scores)
    )


def middles(lengths: Sequence[int | None], sink: int, recent: int) -> list[tuple[int, int]]:
    """Of parts in the order of a view, given their tokens, what is neither sink nor recent: half-open.

    None: a part whose layers differ in length. It is never sink nor recent, nor is what lies beyond it.
    """
    result: list[tuple[int, int]] = []
    left = sink
    for tokens in lengths:
        front = 0 if tokens is None else min(left, tokens)
        left = 0 if tokens is None else left - front
        result.append((front, tokens or 0))
    left = recent
    for at in range(len(lengths) - 1, -1, -1):
        tokens = lengths[at]
        if tokens is None:
            break
        front, _ = result[at]
        result[at] = (front, max(front, tokens - left))
        left = max(0, left - tokens)
    return result


def classed(
    stream: Sequence[Part], own: Segment, prompt_tokens: int, classes: HeadClasses
) -> tuple[tuple[Part, ...], Part]:
    """Parts and tail of one generated token.

    `stream` is in the order of the view; `own` holds prompt and text.
    """
    bounds = [_bounds(part) for part in stream]
    if classes.whole_view:
        lengths = [None if each is None else each[1] - each[0] for each in bounds]
        *cuts, (front, back) = middles([*lengths, own.length + 1], classes.sink, classes.recent)
    else:
        cuts = [(0, 0)] * len(stream)
        ((front, back),) = middles([own.length + 1 - prompt_tokens], classes.sink, classes.recent)
        front, back = front + prompt_tokens, back + prompt_tokens
    parts: list[Part] = []
    for part, bound, cut in zip(stream, bounds, cuts, strict=True):
        if bound is None:
            parts.append(
                Part(segment=part.segment, base=part.base, heads=classes.full) if classes.whole_view else part
            )
        else:
            parts += _cut(part, bound, cut, classes.full)
    if front >= back:
        return tuple(parts), Part(segment=own)
    start = own.start
    if front:
        parts.append(Part(segment=own, end=start + front))
    parts.append(_between(Part(segment=own), start + front, start + back, classes.full))
    return tuple(parts), Part(segment=own, first_visible=torch.tensor([start + back]))


def _bounds(part: Part) -> tuple[int, int] | None:
    """Numbers of the tokens that one query sees of a part; None: it has none."""
    if isinstance(part.segment, LayeredSegment):
        return None
    now = part.segment.snapshot()
    first = now.start if part.first_visible is None else max(now.start, int(part.first_visible[0]))
    return first, now.end if part.end is None else part.end


def _cut(part: Part, bound: tuple[int, int], cut: tuple[int, int], full: HeadRuns) -> list[Part]:
    first, end = bound
    front, back = first + cut[0], first + cut[1]
    if front >= back:
        return [part]
    parts = [_between(part, front, back, full)]
    if first < front:
        parts.append(_between(part, first, front, None))
    if back < end:
        parts.append(_between(part, back, end, None))
    return parts


def _between(part: Part, first: int, end: int, heads: HeadRuns | None) -> Part:
    return Part(
        segment=part.segment, base=part.base, first_visible=torch.tensor([first]), end=end, heads=heads
    )


def _runs(heads: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as half-open runs."""
    runs: list[tuple[int, int]] = []
    for head in heads:
        if runs and runs[-1][1] == head:
            runs[-1] = (runs[-1][0], head + 1)
        else:
            runs.append((head, head + 1))
    return tuple(runs)
