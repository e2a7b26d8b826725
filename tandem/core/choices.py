"""Pure. Names that users may choose from, known to processes that do not have what they name."""

from __future__ import annotations

EVICTION = ("lru", "oldest-first", "importance")
"""Who leaves RAM first."""
RETRIEVAL = ("rekv", "rekv_cosine", "external", "uniform", "recent", "flash_vstream", "video_streaming")
"""Ways in which older blocks come back into view; `docs/retrieval.md` describes each."""
OTHER_RETRIEVAL = ("uniform", "recent")
"""Those that questions may name beside a reasoner's own, unless it is told otherwise."""
