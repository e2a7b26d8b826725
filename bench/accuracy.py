"""Held-out accuracy of the embedded default model: short clips, and long streams by retrieval strategy.

Clips in plain transformers: ``accuracy_<strategy>_<events>events[_<kind>]``, where *full* attends to
everything in view and *window16* encodes with the sliding window that the service uses.

Streams of so many frames, one a second, through the encoder's and the reasoner's own parts, every question
asked at the end; *rekv*, *external* and *uniform* bring back up to 32 older blocks (a layer), *recent* none,
*full* has everything in view. Means over questions:

``accuracy_<strategy>_<frames>[_<kind>]``: fraction answered right, word for word.
``recall_<strategy>_<frames>``: fraction that had a frame in view that the answer rests on, in any layer; only
questions that rest on frames. ``recall_layers_rekv_<frames>``: the part of the layers that had the best one.
``bytes_loaded_<strategy>_<frames>``, ``blocks_loaded_<strategy>_<frames>``: older bytes copied into view, and
older blocks in view per layer.

With *r16* after the strategy only the newest 16 blocks are in view by themselves. On streams that are short
enough for *full* to be in the range it was trained in, that makes the strategies find things, next to it; and
held-out clips go through the parts in the same way: ``accuracy_rekv_r16_160``,
``accuracy_rekv_r16_32events`` and, next to it, ``accuracy_full_parts_32events``.

``spread`` of a fraction is the width of its 95 % confidence interval after Wilson, and ``range`` that
interval, as if questions were independent; those of one stream share its pictures.

Clips and streams come from seeds that training never draws. Those of streams begin at 10, those of clips that
go through the parts at 100: no weights were ever picked by these.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

import numpy as np

from bench._streams import FULL, RECALLED, RUN_UNITS, Answered, Parts, ask_all
from tandem.shapes.questions import KINDS
from tandem.shapes.streams import Stream, draw_stream

FRAMES, QUICK_FRAMES = (1000, 10_000), (1000,)
MOST_FULL = 1000
"""Frames of the longest stream that is also asked about with everything in view."""
STREAMS, QUICK_STREAMS = 4, 1
FEW_RECENT, SHORT_FRAMES, SHORT_STREAMS = 16, (160, 200), 8
"""Newest blocks in view where retrieval is compared with full attention, on so many streams a length."""
CLIP_EVENTS, CLIPS = 32, 10
FIRST_STREAM, FIRST_CLIP = 10, 100
SETTINGS = {
    "model": "default",
    "fps": 1.0,
    "recalled_blocks": RECALLED,
    "run_units": RUN_UNITS,
    "stream_seeds": f"from {FIRST_STREAM}",
    "clip_seeds": f"from 0; through the parts from {FIRST_CLIP}",
}
NORMAL_95 = 1.959964
Row = dict[str, Any]


def run(*, quick: bool = False) -> list[Row]:
    """Rows over clips of 8, 32 and 40 events, each with every kind of question, then over streams."""
    from tandem.shapes.evaluate import rows

    found = rows(clips=3, events=(8, 32)) if quick else rows(clips=30)
    few = Parts("default", FEW_RECENT)
    found += clip_rows(few, 1 if quick else CLIPS)
    found += stream_rows(few, SHORT_FRAMES, 1 if quick else SHORT_STREAMS, f"_r{FEW_RECENT}")
    lengths, streams = (QUICK_FRAMES, QUICK_STREAMS) if quick else (FRAMES, STREAMS)
    found += stream_rows(Parts("default"), lengths, streams)
    return [{**row, "baseline": None, "ratio": None, **_interval(row)} for row in found]


def stream_rows(parts: Parts, lengths: Sequence[int], streams: int, label: str = "") -> list[Row]:
    """Rows ``{metric, value, unit, n}`` over so many streams of each length in frames.

    `label` follows every strategy but *full*, which has no newest blocks of its own.
    """
    out: list[Row] = []
    for frames in lengths:
        drawn = (draw_stream(FIRST_STREAM + i, frames) for i in range(streams))
        out += _ask_rows(parts, drawn, label, str(frames), full=frames <= MOST_FULL)
    return out


def clip_rows(
    parts: Parts, clips: int, events: int = CLIP_EVENTS, label: str = f"_r{FEW_RECENT}"
) -> list[Row]:
    """The same over held-out clips. A total of things is not for retrieval: it has a row of its own alone."""
    drawn = (held_out_stream(FIRST_CLIP + i, events) for i in range(clips))
    rows = _ask_rows(parts, drawn, label, f"{events}events", full=True)
    # Plain transformers has a row of the same name over other clips.
    return [{**row, "metric": row["metric"].replace("full_", "full_parts_")} for row in rows]


def held_out_stream(seed: int, events: int) -> Stream:
    """A held-out clip as a stream, every frame with a picture of its own."""
    from tandem.shapes.evaluate import held_out_clip

    timeline, pictures, questions = held_out_clip(seed, events)
    return Stream(timeline, pictures.numpy(), np.arange(timeline.frames), (), tuple(questions))


def wilson(right: float, n: int) -> tuple[float, float]:
    """95 % confidence interval of a fraction `right` of `n` that was measured."""
    z2 = NORMAL_95 * NORMAL_95
    middle = (right + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 * sqrt(right * (1 - right) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return middle - half, middle + half


def _interval(row: Row) -> Row:
    """The interval of a row that counts right ones out of `n`; other means have none."""
    if not row["metric"].startswith(("accuracy_", "recall_")) or row["metric"].startswith("recall_layers_"):
        return {"spread": None}
    low, high = wilson(row["value"], row["n"])
    return {"spread": round(high - low, 4), "range": [round(low, 4), round(high, 4)]}


def _ask_rows(parts: Parts, drawn: Iterable[Stream], label: str, length: str, *, full: bool) -> list[Row]:
    answered: dict[str, list[Answered]] = defaultdict(list)
    for stream in drawn:
        for strategy, answers in asyncio.run(ask_all(parts, stream, full=full)).items():
            answered[strategy] += answers
    layers, out = parts.model.layout.layers, list[Row]()
    for strategy in (FULL, *parts.strategies):
        if answers := answered[strategy]:
            name = f"{strategy}{'' if strategy == FULL else label}_{length}"
            out += _rows(name, answers, layers, recall_layers=strategy == "rekv")
    return out


def _rows(name: str, answers: Sequence[Answered], layers: int, *, recall_layers: bool) -> list[Row]:
    reach = [answer.layers(layers) for answer in answers if answer.question.evidence]
    kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}  # a total has a row of its own alone
    for answer in answers:
        kinds[answer.question.kind].append(float(answer.right))
    out = [
        _row(f"accuracy_{name}", [mark for kind in kinds if kind != "count_total" for mark in kinds[kind]]),
        *(_row(f"accuracy_{name}_{kind}", marks) for kind, marks in kinds.items() if marks),
        _row(f"recall_{name}", [float(part > 0) for part in reach]),
        _row(f"bytes_loaded_{name}", [answer.evidence.loaded_bytes for answer in answers], "B"),
        _row(f"blocks_loaded_{name}", [answer.blocks_loaded / layers for answer in answers], "blocks"),
    ]
    if recall_layers:
        out.append(_row(f"recall_layers_{name}", reach))
    return out


def _row(metric: str, values: Sequence[float], unit: str = "fraction") -> Row:
    return {"metric": metric, "value": float(fmean(values)), "unit": unit, "n": len(values)}


def main() -> None:
    """Print the rows of long streams for another checkpoint or another window of newest units."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", help="checkpoint, as load_model takes it")
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--recent", type=int, default=0, help="newest units in view; 0: the checkpoint's own")
    args = parser.parse_args()
    for row in stream_rows(Parts(args.source, args.recent), args.frames, args.streams):
        print(f"{row['metric']:44s} {row['value']:12.4f} {row['unit']:8s} n={row['n']}", flush=True)


if __name__ == "__main__":
    main()
