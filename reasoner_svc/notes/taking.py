"""Tensor. A watcher writing one note: a question whose text is kept as a block. The engine's thread only.

The note is its stamp (the interval it is about) and what the watcher wrote, without the prompt: their raw
keys and values are collected as the tokens go through the model, so that a note may later stand anywhere.
L layers, H heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reasoner_svc.decode.answering import Answering
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AskedQuestion, Phase
from reasoner_svc.decode.schedule import Waiting
from reasoner_svc.notes.pace import Pace
from tandem.core.clock import Clock
from tandem.core.timeline import TimeRange
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel


@dataclass(frozen=True, slots=True)
class Written:
    """A finished note."""

    time: TimeRange
    keys: Tensor
    """Raw, [L, H, N, D]."""
    values: Tensor
    """[L, H, N, D]"""


class NoteTaking(Answering):
    """One note on its way through the model."""

    def __init__(
        self,
        number: int,
        model: VisionLanguageModel,
        asked: AskedQuestion,
        outbox: Outbox,
        clock: Clock,
        *,
        time: TimeRange,
        stamp_tokens: int,
        on_end: Callable[[Phase, Written | None], None],
        pace: Pace | None = None,
    ) -> None:
        """The last `stamp_tokens` of the prompt are the note's first.

        `on_end` is called once, with the note if there is one. `pace` says when to step back; None: never.
        """
        super().__init__(number, model, asked, outbox, clock)
        self._time = time
        self._kept_from = len(asked.prompt_ids) - stamp_tokens
        self._on_end = on_end
        self._pace = pace
        self._began_s = 0.0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._through = 0
        """Tokens of prompt and note that went through the model."""

    @property
    def rests(self) -> bool:
        """See `HeldQuestion`."""
        if self._pace is None or self.progress.phase.final:
            return False
        return self._pace.rests(self._clock())

    @property
    def waiting(self) -> Waiting:
        """See `HeldQuestion`."""
        return replace(super().waiting, watcher=True, rests=self.rests)

    def prepare(self, tokens: int) -> list[Step]:
        """See `HeldQuestion`."""
        self._began_s = self._clock()
        (step,) = super().prepare(tokens)
        kept = self._through + len(step.embeds) > self._kept_from
        return [Step(embeds=step.embeds, positions=step.positions, view=step.view, capture=kept)]

    def advance(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """See `HeldQuestion`."""
        if self._pace is not None:
            self._pace.passed(self._began_s, self._clock())
        result = results[-1]
        tokens = result.hidden.shape[0]
        skip = max(0, self._kept_from - self._through)
        self._through += tokens
        if skip < tokens:
            assert result.raw_keys is not None, "a token of the note was not captured"
            assert result.raw_values is not None, "a token of the note was not captured"
            self._keys.append(result.raw_keys[:, :, skip:].clone())
            self._values.append(result.raw_values[:, :, skip:].clone())
        return super().advance(results)

    def _open(self) -> None:
        super()._open()
        if self._pace is not None:
            self._hold(self._pace)

    def _hold(self, pace: Pace) -> None:
        """Its view keeps on the device what it saw at first, for as long as it is written."""
        pace.hold()

    def _leave(self, phase: Phase) -> None:
        written = None
        if phase is Phase.DONE and self.progress.token_ids:
            written = Written(self._time, torch.cat(self._keys, 2), torch.cat(self._values, 2))
        super()._leave(phase)
        if self._pace is not None:
            self._pace.let_go()
        self._keys.clear()
        self._values.clear()
        self._on_end(phase, written)
