"""Every error that crosses a boundary, drawn as one tree.

::

    TandemError
    ├── InvalidInput          the caller sent something that cannot be used
    │   ├── BadMedia          a picture or video that cannot be decoded or is over a limit
    │   ├── BadTimestamp      pts goes back or is out of range
    │   └── BadQuestion       empty, too long, bad sampling values
    ├── NotFound              no such stream, question or block
    ├── AlreadyExists         the id is in use
    ├── WrongState            not possible now (no video yet, stream closed)
    ├── PermissionRefused     token missing, wrong or expired
    ├── LimitExceeded         a quota, budget or queue is full; may carry retry_after_s
    │   └── SlowReader        the client does not read what it asked for
    ├── Incompatible          fingerprints or protocol versions differ
    ├── DataLost              what was asked for is gone (with the interval)
    ├── DeadlineExceeded      time ran out
    ├── Unavailable           the service is down, starting or draining; try again
    │   └── NotLeader         another orchestrator leads; may carry its address
    └── Internal              a broken promise of ours

`docs/errors.md` says for each code when it is sent and what a client should do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Stable names of errors, as clients see them."""

    INVALID_INPUT = "invalid_input"
    BAD_MEDIA = "bad_media"
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_QUESTION = "bad_question"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    WRONG_STATE = "wrong_state"
    PERMISSION_REFUSED = "permission_refused"
    LIMIT_EXCEEDED = "limit_exceeded"
    SLOW_READER = "slow_reader"
    INCOMPATIBLE = "incompatible"
    DATA_LOST = "data_lost"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    UNAVAILABLE = "unavailable"
    NOT_LEADER = "not_leader"
    INTERNAL = "internal"


class TandemError(Exception):
    """Base of all typed errors: a stable code, a sentence for people, and when to try again."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidInput(TandemError):
    """The caller sent something that cannot be used."""

    code = ErrorCode.INVALID_INPUT


class BadMedia(InvalidInput):
    """A picture or video that cannot be decoded or is over a limit."""

    code = ErrorCode.BAD_MEDIA


class BadTimestamp(InvalidInput):
    """A presentation time that goes back or is out of range."""

    code = ErrorCode.BAD_TIMESTAMP


class BadQuestion(InvalidInput):
    """A question that is empty or too long, or sampling values out of range."""

    code = ErrorCode.BAD_QUESTION


class NotFound(TandemError):
    """No such stream, question or block."""

    code = ErrorCode.NOT_FOUND


class AlreadyExists(TandemError):
    """The id is in use."""

    code = ErrorCode.ALREADY_EXISTS


class WrongState(TandemError):
    """Not possible in the present state."""

    code = ErrorCode.WRONG_STATE


class PermissionRefused(TandemError):
    """A token is missing, wrong or expired."""

    code = ErrorCode.PERMISSION_REFUSED


class LimitExceeded(TandemError):
    """A quota, budget or queue is full."""

    code = ErrorCode.LIMIT_EXCEEDED


class SlowReader(LimitExceeded):
    """The client does not read what it asked for."""

    code = ErrorCode.SLOW_READER


class Incompatible(TandemError):
    """Fingerprints or protocol versions differ."""

    code = ErrorCode.INCOMPATIBLE


class DataLost(TandemError):
    """What was asked for is gone."""

    code = ErrorCode.DATA_LOST


class DeadlineExceeded(TandemError):
    """Time ran out."""

    code = ErrorCode.DEADLINE_EXCEEDED


class Unavailable(TandemError):
    """The service is down, starting or draining."""

    code = ErrorCode.UNAVAILABLE


class NotLeader(Unavailable):
    """This orchestrator stands by; another leads."""

    code = ErrorCode.NOT_LEADER

    def __init__(self, message: str, *, retry_after_s: float | None = None, leader: str = "") -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.leader = leader
        """host:port of the one that leads; empty: not known."""


class Internal(TandemError):
    """A broken promise of ours."""

    code = ErrorCode.INTERNAL


def _tree(root: type[TandemError]) -> list[type[TandemError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


_BY_CODE = {cls.code: cls for cls in reversed(_tree(TandemError))} | {ErrorCode.INTERNAL: Internal}


def error_from_code(code: str, message: str, retry_after_s: float | None = None) -> TandemError:
    """Rebuild an error that came over the wire; an unknown code becomes `Internal`."""
    try:
        cls = _BY_CODE[ErrorCode(code)]
    except (ValueError, KeyError):
        return Internal(f"[{code}] {message}", retry_after_s=retry_after_s)
    return cls(message, retry_after_s=retry_after_s)
