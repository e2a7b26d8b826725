"""Shell. A few times a second: what every stream asks for, and what `rates` gives it, brought together."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection

from encoder_svc.loop import EncodeLoop
from encoder_svc.processors import ProcessorMeter, Usage
from encoder_svc.rates import LATE_S, RateControl
from encoder_svc.session import Session
from encoder_svc.usage import read_usage
from tandem.core import overload
from tandem.core.clock import Clock
from tandem.core.overload import Overload
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)

PERIOD_S = 0.25
STEADY = PERIOD_S / 5.0
"""Part of a new cost that counts at once towards what is told to others: a mean over some five seconds."""
GAPS_HOLD_S = 2.0
"""How long after the last frame that was left out it counts as leaving frames out."""
LATE_HOLD_S = 3.0
"""How long it must have been late without end, though no rate can fall, to count as late: longer than it
takes to catch up after a pause."""


class Pacing:
    """The rates of all streams of this encoder. Owned by the event loop."""

    def __init__(
        self,
        loop: EncodeLoop,
        sessions: Callable[[], Collection[Session]],
        clock: Clock,
        usage: Callable[[float], Usage] = read_usage,
    ) -> None:
        self._usage = usage
        self._processors = ProcessorMeter()
        self._loop = loop
        self._sessions = sessions
        self._clock = clock
        self._stuck_since_s: float | None = None
        self._control: RateControl[Session] = RateControl()
        self._task: asyncio.Task[None] | None = None
        self._late_s = 0.0
        self._unit_s = 0.0
        self._shed_s = float("-inf")
        self._said = Overload.NONE

    @property
    def overload(self) -> Overload:
        """How far it has come."""
        if self._clock() - self._shed_s < GAPS_HOLD_S:
            return Overload.GAPS
        if self._stuck_since_s is not None and self._clock() - self._stuck_since_s >= LATE_HOLD_S:
            return Overload.LATE
        return Overload.RATES if self._control.is_overloaded else Overload.NONE

    @property
    def late_s(self) -> float:
        """How far the unit that is furthest past its deadline was, at the last look; never below 0."""
        return self._late_s

    @property
    def slowed(self) -> int:
        """Streams that are watched at less than they asked for."""
        return self._control.slowed

    @property
    def unit_seconds(self) -> float:
        """What a unit costs in batches of a loaded encoder, or of its processors, whichever is more.

        Steadied: promises rest on it. 0: not known.
        """
        return max(self._unit_s, self._processors.unit_seconds) if self._unit_s else 0.0

    @property
    def limit(self) -> str:
        """Which of the two that is: "model" or "processors"."""
        return "processors" if self.unit_seconds > self._unit_s else "model"

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._run(), name="encode-pacing")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """Once: ask every session, decide, tell every session."""
        unit_s = self._loop.cost.unit_seconds(self._loop.batch_units / 2)
        self._unit_s += (unit_s - self._unit_s) * (STEADY if self._unit_s else 1.0)
        stats, saving = self._loop.stats, self._loop.cost.saving(self._loop.batch_units / 2)
        self._processors.add(self._clock(), stats.units, self._usage(stats.cpu_s), saving)
        wishes = {session: session.wish() for session in self._sessions() if session.lane is not None}
        self._late_s = max((wish.late_s for wish in wishes.values()), default=0.0)
        self._late_s = max(self._late_s, 0.0)
        if any(session.is_shedding for session in self._sessions()):
            self._shed_s = self._clock()
        rates = self._control.tick(self._clock(), wishes)
        if self._control.stuck_s <= (LATE_S if self._stuck_since_s is None else 0.0):
            self._stuck_since_s = None
        elif self._stuck_since_s is None:
            self._stuck_since_s = self._clock()
        of_tenant = Counter(wish.tenant for wish in wishes.values())
        for session, rate in rates.items():
            wish = wishes[session]
            session.set_rate(rate)
            assert session.lane is not None, session
            self._loop.weigh(session.lane, wish.weight / of_tenant[wish.tenant])
        if self.overload is not self._said:
            self._said = self.overload
            log.info("overload: %s (%.1f s late, %d streams)", self._said, self._late_s, len(wishes))

    async def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # a defect: rates stay as they are, streams go on
                log.exception("the rates could not be set")
            await asyncio.sleep(PERIOD_S)


def told_costs(loop: EncodeLoop, pacing: Pacing, model: VisionLanguageModel, now_s: float) -> dict[str, str]:
    """What a stream costs here, and how the service fares: see `tandem.core.overload`."""
    cost = loop.cost
    tokens = max(round(cost.unit_tokens), 1)
    costs = {
        overload.UNIT_SECONDS: pacing.unit_seconds,
        overload.UNIT_TOKENS: cost.unit_tokens,
        overload.TOKEN_BYTES: model.layout.block_bytes(tokens, loop.codec) / tokens,
        overload.FRAMES_PER_UNIT: model.prompt.frames_per_unit,
        overload.BUSY_SHARE: cost.busy(now_s),
        overload.LATE_SECONDS: pacing.late_s,
    }
    told = {name: f"{value:.6g}" for name, value in costs.items()}
    return told | {overload.OVERLOAD: pacing.overload.value, overload.LIMIT: pacing.limit}
