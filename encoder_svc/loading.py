"""Tensor. What takes an encoder long to have: its model, its embedder, and what a unit costs.

All of it comes before the process goes in reserve and before it listens: one that is called is ready at once,
and no address is told of where nobody answers yet.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from encoder_svc.config import EncoderConfig
from encoder_svc.cost import CostMeter
from encoder_svc.trial import try_out
from tandem.core.blocks import Codec
from tandem.core.clock import monotonic_clock
from tandem.vlm.embedder import Embedder
from tandem.vlm.embedders.pick import load_embedder
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `EncoderApp` is made of."""

    model: VisionLanguageModel
    embedder: Embedder | None
    cost: CostMeter


def load(config: EncoderConfig) -> Loaded:
    """Load and try out, in this thread."""
    began_s = monotonic_clock()
    model = load_model(
        config.model,
        revision=config.revision or None,
        load_format=config.load_format,
        dtype=config.dtype or None,
        device=config.device,
        max_pixels=config.max_pixels or None,
    )
    embedder = load_embedder(
        config.embedder,
        config.model,
        load_format=config.load_format,
        device=config.device,
        revision=config.embedder_revision or None,
        model_revision=config.revision or None,
    )
    loaded_s, cost = monotonic_clock(), CostMeter()
    log.info("the model took %.1f s", loaded_s - began_s)
    try_out(model, embedder, Codec(config.block_codec), config.batch_units, cost, monotonic_clock)
    log.info("trying it took %.1f s", monotonic_clock() - loaded_s)
    return Loaded(model, embedder, cost)
