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

from reasoner_svc.decode.held import HeldQuestion
from tandem.core.errors import Internal, TandemError
from tandem.vlm.model import Step, VisionLanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question and its part of the pass."""

    question: HeldQuestion
    steps: list[Step]


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
    ready, rows, at = [], [], 0
    for one in batch:
        own = results[at : at + len(one.steps)]
        at += len(one.steps)
        try:
            hidden = one.question.advance(own)
        except Exception as error:
            fail(one.question, error)
            continue
        if hidden:
            ready.append((one.question, len(hidden)))
            rows += hidden
    if not rows:
        return
    logits = model.logits(torch.stack(rows))
    for (question, _), part in zip(ready, torch.split(logits, [count for _, count in ready]), strict=True):
        try:
            question.choose(part)
        except Exception as error:
            fail(question, error)


def fail(question: HeldQuestion, error: Exception) -> None:
    """End a question with its error; what is not a typed one is our fault, and the log has it."""
    if isinstance(error, TandemError):
        question.fail(error)
        return
    log.error("question %s of %s failed", question.asked.question_id, question.asked.stream, exc_info=error)
    question.fail(Internal("the question could not be answered; the server's log has details"))
