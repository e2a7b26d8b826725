"""Names of things, as distinct types so that one is never passed for another."""

from __future__ import annotations

import re
from typing import NewType

StreamId = NewType("StreamId", str)
QuestionId = NewType("QuestionId", str)
Epoch = NewType("Epoch", int)

_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

NOTES_SUFFIX = ".notes"
"""What the id of a stream's notes ends with; no stream of a client's may."""


def notes_of(stream: StreamId) -> StreamId:
    """The id under which a stream's notes are stored: blocks of their own, with their own numbers."""
    return StreamId(stream + NOTES_SUFFIX)


def is_stream_id(text: str) -> bool:
    """True for an id that a stream of a client's may have."""
    return is_valid_id(text) and not text.endswith(NOTES_SUFFIX)


def may_have_notes(stream: StreamId) -> bool:
    """False for a stream whose notes' id would be too long."""
    return is_valid_id(notes_of(stream))


def is_valid_id(text: str) -> bool:
    """True for 1 to 64 characters of ``[A-Za-z0-9._-]`` that start with a letter or digit.

    Ids appear in logs, file names and headers, so nothing else is let in.
    """
    return _ID_PATTERN.fullmatch(text) is not None
