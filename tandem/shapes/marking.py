"""Pure: whether an answer says what is known to be right. Imports nothing heavy."""

from __future__ import annotations

import re


def is_right(answer: str, known: str) -> bool:
    """True when the two say the same; case, spaces and closing points do not matter."""
    return _bare(answer) == _bare(known)


def _bare(text: str) -> str:
    return re.sub(r"[^\w:]", "", text.casefold())
