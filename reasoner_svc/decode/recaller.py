"""Tensor. From what a question says of older blocks to what its view recalls. The engine's thread only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from reasoner_svc.decode.question import AskedQuestion, RetrievalWish
from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.select import Limits, Reads
from reasoner_svc.view.compose import ViewPlan
from reasoner_svc.view.loading import LayerLoader
from reasoner_svc.view.memory import RecallSettings
from reasoner_svc.view.recall import Recall, RecallRequest
from reasoner_svc.view.run import MakeRecall, StreamRun
from tandem.core.blocks import BlockGeometry
from tandem.core.clock import Clock
from tandem.core.errors import BadQuestion
from tandem.vlm.model import VisionLanguageModel


class Recaller:
    """Makes recalls for the questions of one engine."""

    def __init__(
        self,
        model: VisionLanguageModel,
        settings: RecallSettings,
        loader: LayerLoader,
        clock: Clock,
        embed: Callable[[str], Tensor] | None = None,
    ) -> None:
        """`embed` embeds a question's text, for external retrieval."""
        self.settings = settings
        self.loader = loader
        self._model = model
        self._clock = clock
        self._embed = embed

    def request(self, asked: AskedQuestion, run: StreamRun) -> RecallRequest | None:
        """What a question wants recalled; None when older blocks never come back.

        Raises BadQuestion for a strategy that this reasoner does not have.
        """
        wish, most = asked.retrieval, self.settings.limits.blocks
        known = tuple(dict.fromkeys((self.settings.strategy, *self.settings.others)))
        if wish.strategy and wish.strategy not in known:
            raise BadQuestion(f"no retrieval strategy {wish.strategy!r} here; there are: {', '.join(known)}")
        selector = run.selector(wish.strategy)
        if not most or selector is None:
            return None
        external = None
        if selector.reads is Reads.EXTERNAL:
            if self._embed is None:
                raise BadQuestion(f"{selector.name} needs an embedder, and this reasoner runs without one")
            if run.lacks_embeddings:
                raise BadQuestion(
                    f"{selector.name}: this reasoner's embedder made no embedding of this stream; "
                    "start encoder and reasoner with the same --embedder"
                )
            external = self._embed(wish.text)
        return RecallRequest(
            selector=selector,
            limits=self._limits(wish),
            span=wish.span,
            external=external,
            load_s=wish.load_s or math.inf,
        )

    def _limits(self, wish: RetrievalWish) -> Limits:
        own = self.settings.limits
        return replace(
            own,
            blocks=min(wish.blocks or own.blocks, own.blocks),
            tokens=wish.tokens or own.tokens,
            mass=wish.mass or own.mass,
            chunk=wish.chunk or own.chunk,
        )

    def maker(self, asked: AskedQuestion) -> MakeRecall:
        """What composes the recall of this question."""

        def make(request: RecallRequest, older: IndexView, plan: ViewPlan, usual: BlockGeometry) -> Recall:
            return Recall(
                self._model,
                request,
                older,
                self.loader,
                run=asked.run,
                stream=asked.stream,
                plan=plan,
                usual=usual,
                clock=self._clock,
            )

        return make
