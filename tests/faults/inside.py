"""Services of a fleet in this process: they share one model, and are there at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from encoder_svc.app import EncoderApp
from encoder_svc.config import EncoderConfig
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from tandem.core.secret_file import read_secret
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.faults.fleet import MODEL

Make = Callable[[str, str, str], Any]
"""Of (listen, advertise, orchestrator)."""


@cache
def model() -> VisionLanguageModel:
    return load_model(MODEL)


def encoder(name: str, secret_file: Path) -> Make:
    def make(listen: str, advertise: str, orchestrator: str) -> EncoderApp:
        config = EncoderConfig(
            name=name,
            listen=listen,
            advertise=advertise,
            orchestrator=orchestrator,
            model=MODEL,
            lanes=("shm",),
            drain_s=10.0,
        )
        return EncoderApp(config, model(), read_secret(secret_file))

    return make


def reasoner(name: str, secret_file: Path, **settings: Any) -> Make:
    def make(listen: str, advertise: str, orchestrator: str) -> Reasoner:
        config = ReasonerConfig(
            name=name,
            listen=listen,
            advertise=advertise,
            orchestrator=orchestrator,
            secret=read_secret(secret_file),
            model=MODEL,
            lanes=("shm",),
            drain_s=10.0,
            **settings,
        )
        return Reasoner(config, model())

    return make
