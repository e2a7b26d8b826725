"""Tensor. One forward pass for all questions that step in a tick: weights and shared blocks are read once.

Iteration-level batching (Orca, OSDI 2022), with chunks of prompts beside tokens of answers (Sarathi-Serve,
arXiv 2403.02310). A question gives as many steps as it has workers. Knows no queues and no streams; the
engine's thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoner_svc.decode.held import HeldQuestion
from tandem.core.errors import Internal, TandemError
from tandem.core.logs import about
from tandem.vlm.model import Step, VisionLanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question and its part of the pass."""

    question: HeldQuestion
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A question and the rows [hidden] that it chooses from."""

    question: HeldQuestion
    hidden: list[Tensor]


def run_batch(model: VisionLanguageModel, batch: Sequence[Prepared]) -> None:
    """Put all steps through the model and let each question take what came of them.

    A question that fails, fails alone: when the pass itself breaks, it is repeated for each question apart.
    """
    if not batch:
        return
    try:
        results = model.forward_many([step for one in batch for step in one.steps])
    except Exception as error:
        if len(batch) == 1:
            fail(batch[0].question, error)
            return
        log.warning("a pass over %d questions broke; each is tried alone", len(batch), exc_info=True)
        for one in batch:
            run_batch(model, [one])
        return
    ready: list[_Ready] = []
    at = 0
    for one in batch:
        own = results[at : at + len(one.steps)]
        at += len(one.steps)
        try:
            hidden = one.question.advance(own)
        except Exception as error:
            fail(one.question, error)
            continue
        if hidden:
            ready.append(_Ready(one.question, hidden))
    _choose(model, ready)


def _choose(model: VisionLanguageModel, ready: Sequence[_Ready]) -> None:
    """Let each question choose its tokens, from logits that are made together or, when that breaks, apart."""
    if not ready:
        return
    try:
        logits = model.logits(torch.stack([row for one in ready for row in one.hidden]))
    except Exception as error:
        if len(ready) == 1:
            fail(ready[0].question, error)
            return
        log.warning("logits of %d questions broke; each is tried alone", len(ready), exc_info=True)
        for one in ready:
            _choose(model, [one])
        return
    for one, part in zip(ready, torch.split(logits, [len(one.hidden) for one in ready]), strict=True):
        try:
            one.question.choose(part)
        except Exception as error:
            fail(one.question, error)


def fail(question: HeldQuestion, error: Exception) -> None:
    """End a question with its error; what is not a typed one is our fault, and the log has it."""
    if isinstance(error, TandemError):
        question.fail(error)
        return
    asked = question.asked
    with about(asked.stream):
        log.error("question %s of %s failed", asked.question_id, asked.stream, exc_info=error)
    question.fail(Internal("the question could not be answered; the server's log has details"))
