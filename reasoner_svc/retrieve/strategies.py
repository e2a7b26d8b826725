"""Pure. The one table of retrieval strategies. A new one is a row here and a row in the contract tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from reasoner_svc.retrieve.external import External
from reasoner_svc.retrieve.flash_vstream import FlashVStream
from reasoner_svc.retrieve.recent import Recent
from reasoner_svc.retrieve.rekv import Rekv
from reasoner_svc.retrieve.select import Selector
from reasoner_svc.retrieve.uniform import Uniform
from reasoner_svc.retrieve.video_streaming import VideoStreaming
from tandem.core.errors import InvalidInput

STRATEGIES: dict[str, Callable[..., Selector]] = {
    "rekv": Rekv,
    "rekv_cosine": partial(Rekv, metric="cosine"),
    External.name: External,
    Recent.name: Recent,
    Uniform.name: Uniform,
    FlashVStream.name: FlashVStream,
    VideoStreaming.name: VideoStreaming,
}


def make_selector(name: str, **settings: Any) -> Selector:
    """A fresh strategy for one stream; `settings` are its constructor's.

    Raises InvalidInput for a name or a setting that does not exist.
    """
    if name not in STRATEGIES:
        raise InvalidInput(f"no retrieval strategy {name!r}; there are: {', '.join(STRATEGIES)}")
    try:
        return STRATEGIES[name](**settings)
    except TypeError as error:
        raise InvalidInput(f"retrieval strategy {name!r}: {error}") from None
