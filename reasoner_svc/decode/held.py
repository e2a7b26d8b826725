"""Tensor. What every open question holds, whoever works on it: a lease on its stream's run, what it recalls.

All of it is given back the moment the question ends, however it ends. Owned by the engine's thread. T new
tokens, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AskedQuestion, Phase, Progress
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.schedule import Waiting
from reasoner_svc.view.compose import ViewPlan
from reasoner_svc.view.lease import Lease
from reasoner_svc.view.recall import Recall
from reasoner_svc.view.run import StreamRun
from tandem.core.clock import Clock
from tandem.core.errors import TandemError
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel
from tandem.vlm.view import Part


class HeldQuestion(ABC):
    """One question on its way through the model, as the engine and its batches see it."""

    def __init__(
        self,
        number: int,
        model: VisionLanguageModel,
        asked: AskedQuestion,
        outbox: Outbox,
        clock: Clock,
        recaller: Recaller | None = None,
    ) -> None:
        self.number = number
        self.asked = asked
        self.cancelled = False
        """Set from any thread; the engine looks before every step."""
        self.progress = Progress()
        self._model = model
        self._outbox = outbox
        self._clock = clock
        self._recaller = recaller
        self._run: StreamRun | None = None
        self._lease: Lease | None = None
        self._recall_error: Exception | None = None

    @property
    @abstractmethod
    def waiting(self) -> Waiting:
        """What the schedule needs to know."""

    @property
    def rests(self) -> bool:
        """True while it wants no part of a pass, and nobody needs to hurry for it."""
        return False

    @property
    @abstractmethod
    def tail_bytes(self) -> int:
        """Device bytes of its own."""

    @abstractmethod
    def prepare(self, tokens: int) -> list[Step]:
        """Its part of the next pass: so many tokens to read, or with 0 the newest tokens of its text.

        With recall all of the prompt goes at once: each layer retrieves by the mean query of the question.
        """

    @abstractmethod
    def advance(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """What was prepared went through the model: the hidden states [hidden] to choose tokens from.

        Raises what went wrong while older blocks were recalled.
        """

    @abstractmethod
    def choose(self, logits: Tensor) -> None:
        """Take the next tokens, of logits [rows, V] in the order of what `advance` gave."""

    @abstractmethod
    def _open(self) -> None:
        """Make room for what is read and written."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of everything on the device."""

    def begin(self, run: StreamRun) -> None:
        """Compose the view and take what is needed. Raises WrongState, DataLost or BadQuestion."""
        self._lease = run.lease(
            prompt_tokens=self._before_answer,
            as_of_us=self.asked.as_of_us,
            since_us=self.asked.since_us,
            request=self._recaller.request(self.asked, run) if self._recaller else None,
            make_recall=self._recaller.maker(self.asked) if self._recaller else None,
        )
        self._run = run
        self._open()
        self.progress.move(Phase.PREFILL)
        self.progress.started_s = self._clock()

    def fail(self, error: TandemError) -> None:
        """End with an error that the asker sees; nothing happens when it ended already."""
        if not self.progress.phase.final:
            self._leave(Phase.FAILED)
            self._outbox.end(error)

    def abandon(self, error: TandemError) -> None:
        """End because the asker left; `error` is for whoever still listens."""
        if not self.progress.phase.final:
            self._leave(Phase.CANCELLED)
            self._outbox.end(error)

    @property
    def _before_answer(self) -> int:
        """Tokens of the prompt that stand on the video's line of positions."""
        return len(self.asked.prompt_ids)

    @property
    def _reads_whole(self) -> bool:
        """Older blocks are chosen by all of its prompt; before it has begun: may be."""
        return self._recaller is not None if self._lease is None else self._recall is not None

    @property
    def _recall(self) -> Recall | None:
        return self._lease.recall if self._lease else None

    @property
    def _plan(self) -> ViewPlan:
        assert self._lease is not None, "not begun"
        return self._lease.plan

    def _parts(self, queries: int) -> tuple[Part, ...]:
        """The stream, as every step of the question sees it."""
        assert self._run is not None, "not begun"
        assert self._lease is not None, "not begun"
        return self._run.parts(self._lease, queries)

    def _next_prompt(
        self, tokens: int
    ) -> tuple[tuple[int, ...], Tensor, Callable[[int, Tensor], None] | None]:
        """The next tokens of the prompt, their positions int64 [3, T], and the hook that recalls."""
        start, recall = self.progress.prefilled, self._recall
        count = len(self.asked.prompt_ids) if recall is not None else tokens
        ids = self.asked.prompt_ids[start : start + count]
        base = torch.tensor(self._plan.question_base)
        hook = self._recall_layer if recall is not None else None
        return ids, base[:, None] + torch.arange(start, start + len(ids)), hook

    def _prompt_read(self, tokens: int) -> bool:
        """So many tokens of the prompt went through; True when that was the last of it."""
        if self._recall_error is not None:
            raise self._recall_error
        self.progress.prefilled += tokens
        return self.progress.prefilled == len(self.asked.prompt_ids)

    def _recall_layer(self, layer: int, raw_queries: Tensor) -> None:
        """A hook that never raises: the pass serves other questions too."""
        assert self._recall is not None
        if layer == 0:
            self._recall_error = None
        if self._recall_error is None:
            try:
                self._recall.before_layer(layer, raw_queries)
            except Exception as error:
                self._recall_error = error

    def _leave(self, phase: Phase) -> None:
        if self._run is not None and self._lease is not None:
            self._run.release(self._lease)
        self._run = self._lease = None
        self._free()
        self.progress.move(phase)
