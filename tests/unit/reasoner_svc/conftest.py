"""One small model of each prompt layout for all tests of the reasoner."""

from __future__ import annotations

import pytest

from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel

SOURCES = ("dummy:tiny", "dummy:tiny-timestamped")


@pytest.fixture(scope="session", params=SOURCES)
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    return load_model(request.param)
