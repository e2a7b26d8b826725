"""Shell. Passes of the model, timed."""

from __future__ import annotations

from collections.abc import Sequence

from reasoner_svc import metrics
from reasoner_svc.decode.batch import Prepared, run_batch
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.meters import NO_METERS, Meters
from tandem.vlm.model import VisionLanguageModel


class MeasuredPasses:
    """Runs batches for the engine's thread."""

    def __init__(self, meters: Meters = NO_METERS, clock: Clock = monotonic_clock) -> None:
        self._meters = meters
        self._clock = clock

    def run(self, model: VisionLanguageModel, batch: Sequence[Prepared]) -> None:
        """See `run_batch`."""
        if not batch:
            return
        began_s = self._clock()
        run_batch(model, batch)
        self._meters.observe(metrics.STEP, self._clock() - began_s)
        self._meters.observe(metrics.STEP_ROWS, len(batch))
