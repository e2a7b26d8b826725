"""What a parser of foreign bytes is to the tests: valid examples, how it is called, what it refuses with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import Message

from tandem.core.errors import TandemError


class Form(Enum):
    """How the body of a message is written: what there is to change in it besides its bytes."""

    BYTES = "bytes"
    MSGPACK = "msgpack"
    JSON = "json"
    TEXT = "text"
    """Lines with numbers and words: TOML, addresses, tokens."""


@dataclass(frozen=True)
class Parser:
    """One of them.

    Where a checksum or signature comes before the parsing, `seal` makes it right again after the bytes were
    changed: whoever sends them can do the same. `unwrap` and `wrap` get at the body inside of a frame and put
    one around a changed body.
    """

    seeds: Callable[[], list[bytes]]
    parse: Callable[[bytes], object]
    refuses: tuple[type[BaseException], ...] = (TandemError,)
    seal: Callable[[bytes], bytes] = bytes
    form: Form | type[Message] = Form.BYTES
    unwrap: Callable[[bytes], bytes] = bytes
    wrap: Callable[[bytes], bytes] = bytes
    is_slow: bool = False
    """It decodes video, reads files or tokenises: fewer examples of it."""
    more: Callable[[], list[bytes]] = list
    """Valid examples of which the parser makes the error that they tell of."""
    least_deep: float = 0.25
    """Share of changed messages that must get past what refuses random bytes; 0: it compares, and no more."""
    peak_bytes: int = 8 << 20
    """That one message may make it allocate."""
    cpu_s: float = 2.0
    """Of a processor, for one message: by the clock on the wall a busy machine would fail."""
