"""Pure. What encoders tell of their load in heartbeats, under which names: both ends agree here."""

from __future__ import annotations

from enum import StrEnum

MAX_SHARE = 0.9
"""Of an encoder's time that is promised: beyond it queues grow without end at the least disturbance."""


class Overload(StrEnum):
    """How far an encoder has come in the order of degradation."""

    NONE = "none"
    """Every stream is watched at the rate it asked for."""
    RATES = "rates"
    """Some are watched at less, within what their clients accept."""
    LATE = "late"
    """All are at the least that their clients accept, and it is late none the less: new streams go elsewhere,
    or are refused."""
    GAPS = "gaps"
    """Some have frames left out: new streams go elsewhere, or are refused."""


UNIT_SECONDS = "unit_seconds"
"""Seconds of the model that a temporal unit takes, in batches of a loaded encoder, or of all processors of
its machine, where those are used up first; 0: not known yet."""
LIMIT = "limit"
"""Which of the two that is: "model" or "processors"."""
UNIT_TOKENS = "unit_tokens"
"""Mean tokens of a unit; 0: not known yet."""
TOKEN_BYTES = "token_bytes"  # noqa: S105 - of text, not a password
"""Bytes of keys and values a token, as blocks hold them."""
WINDOW_UNITS = "window_units"
"""Units that a unit sees before itself."""
FRAMES_PER_UNIT = "frames_per_unit"
"""Frames that the model merges into a unit."""
BUSY_SHARE = "busy_share"
"""Of the time of late, how much the model was at work."""
OVERLOAD = "overload"
"""An `Overload`."""
LATE_SECONDS = "late_seconds"
"""How far the oldest waiting unit is past its deadline."""
RAM_BUDGET_BYTES = "ram_budget_bytes"
"""What a reasoner may hold in RAM."""
RAM_USED_BYTES = "ram_used_bytes"
"""What it holds of that."""
NOTES_BYTES = "notes_bytes"
"""What it holds in RAM besides: notes that are on no disk."""
