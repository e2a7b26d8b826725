"""Tensor. Batches of grey pictures before the first stream: what a unit costs is known from the start.

Without them the first streams would be let in unseen, and those after them judged by batches of one unit,
which say little of a loaded encoder. A device that cannot hold the largest batch fails here, not under load.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from encoder_svc.cost import WARM_UP, CostMeter
from encoder_svc.encode import Run, prefill_runs, see_runs, unit_geometry
from encoder_svc.fitting import fit_unit
from encoder_svc.sample import Unit
from encoder_svc.window import Window
from tandem.core.blocks import Codec
from tandem.core.clock import Clock
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.embedder import Embedder
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)

PICTURE = (240, 320)
"""Height and width of what is tried."""
LONGEST_S = 3.0
"""What is expected to end later than this after the first batches is not tried."""


def try_out(
    model: VisionLanguageModel,
    embedder: Embedder | None,
    codec: Codec,
    batch_units: int,
    cost: CostMeter,
    clock: Clock,
) -> None:
    """Run a few batches in this thread, and tell `cost` of them. Needs the model for itself.

    However slow the model is, this takes no longer than four units and `LONGEST_S`: a killed encoder is back
    only after it. Four batches of one unit always run, as with fewer nothing is known.
    """
    sizes = [1] * WARM_UP + [batch_units, 1] * 2
    unit_s = spent_s = 0.0
    for units in sizes:
        may_wait = units > 1 or cost.is_known
        if may_wait and spent_s + unit_s * units > LONGEST_S:
            log.info("no batch of %d is tried any more: a unit takes %.1f s", units, unit_s)
            continue
        runs, began_s = _runs(model, units), clock()
        prefill_runs(model, runs, see_runs(model, runs, embedder), codec)
        ended_s = clock()
        tokens = sum(unit_geometry(model, unit).tokens for run in runs for unit in run.units)
        cost.add(units, tokens, began_s, ended_s)
        unit_s = (ended_s - began_s) / units
        spent_s += ended_s - began_s if cost.batches > WARM_UP else 0.0
    log.info("a unit takes %.1f ms in batches of %d", 1e3 * cost.unit_seconds(batch_units), batch_units)


def _runs(model: VisionLanguageModel, units: int) -> Sequence[Run]:
    grey = np.full((*PICTURE, 3), 128, np.uint8)
    frames = (grey,) * model.prompt.frames_per_unit
    unit = fit_unit(model.pictures, Unit(TimeRange(0, 1_000_000), frames))
    runs = []
    for index in range(units):
        window = Window(model, 1)
        window.open()
        runs.append(Run(StreamId(f"trial-{index}"), window, (unit,)))
    return runs
