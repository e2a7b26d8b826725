"""Held-out accuracy of the embedded default model: short clips, and long streams by retrieval strategy.

Clips: ``accuracy_<strategy>_<events>events[_<kind>]``, where *full* attends to everything in view and
*window16* encodes with the sliding window that the service uses.

Streams of so many frames, one a second, through the encoder's and the reasoner's own parts, every question
asked at the end; *rekv*, *external* and *uniform* bring back up to 32 older blocks (a layer), *recent* none,
*full* has everything in view. Means over questions:

``accuracy_<strategy>_<frames>[_<kind>]``: fraction answered right, word for word.
``recall_<strategy>_<frames>``: fraction that had a frame in view that the answer rests on, in any layer; only
questions that rest on frames. ``recall_layers_rekv_<frames>``: the part of the layers that had the best one.
``bytes_loaded_<strategy>_<frames>``, ``blocks_loaded_<strategy>_<frames>``: older bytes copied into view, and
older blocks in view per layer.

Clips and streams come from seeds that training never draws.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench._streams import FULL, RECALLED, RUN_UNITS, Answered, Parts, ask_all
from tandem.shapes.questions import KINDS
from tandem.shapes.streams import draw_stream

FRAMES, QUICK_FRAMES = (120, 1000, 10_000), (120, 1000)
MOST_FULL = 1000
"""Frames of the longest stream that is also asked about with everything in view."""
STREAMS, QUICK_STREAMS = 2, 1
SETTINGS = {"model": "default", "fps": 1.0, "recalled_blocks": RECALLED, "run_units": RUN_UNITS}
Row = dict[str, Any]


def run(*, quick: bool = False) -> list[Row]:
    """Rows over clips of 8, 32 and 40 events, each with every kind of question, then over long streams."""
    from tandem.shapes.evaluate import rows

    found = rows(clips=3, events=(8, 32)) if quick else rows(clips=30)
    lengths, streams = (QUICK_FRAMES, QUICK_STREAMS) if quick else (FRAMES, STREAMS)
    found += stream_rows(Parts("default"), lengths, streams)
    return [{**row, "baseline": None, "ratio": None, "spread": None} for row in found]


def stream_rows(parts: Parts, lengths: Sequence[int], streams: int) -> list[Row]:
    """Rows ``{metric, value, unit, n}`` over so many streams of each length in frames."""
    out: list[Row] = []
    for frames in lengths:
        answered: dict[str, list[Answered]] = defaultdict(list)
        for seed in range(streams):
            found = asyncio.run(ask_all(parts, draw_stream(seed, frames), full=frames <= MOST_FULL))
            for strategy, answers in found.items():
                answered[strategy] += answers
        for strategy in (FULL, *parts.strategies):
            if answers := answered[strategy]:
                out += _rows(strategy, frames, answers, parts.model.layout.layers)
    return out


def _rows(strategy: str, frames: int, answers: Sequence[Answered], layers: int) -> list[Row]:
    name = f"{strategy}_{frames}"
    reach = [answer.layers(layers) for answer in answers if answer.question.evidence]
    kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for answer in answers:
        kinds[answer.question.kind].append(float(answer.right))
    out = [
        _row(f"accuracy_{name}", [float(answer.right) for answer in answers]),
        *(_row(f"accuracy_{name}_{kind}", marks) for kind, marks in kinds.items() if marks),
        _row(f"recall_{name}", [float(part > 0) for part in reach]),
        _row(f"bytes_loaded_{name}", [answer.evidence.loaded_bytes for answer in answers], "B"),
        _row(f"blocks_loaded_{name}", [answer.blocks_loaded / layers for answer in answers], "blocks"),
    ]
    if strategy == "rekv":
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
