"""Shell. Logs for people or for machines, with the stream and placement epoch that a line is about.

Neither frames nor prompts, answers or secrets are ever logged: ids, positions, times and reasons are.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

FORMATS = ("text", "json")
_TEXT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
_MAX_CHARS = 16_384
"""Of one message or traceback: a line that nobody can read costs disks and collectors."""
_SELDOM_S = 1.0
"""Between two records of what strangers bring about, and of gRPC: it logs a traceback for each message that
it cannot read."""

_stream: ContextVar[str] = ContextVar("tandem_stream", default="")
_epoch: ContextVar[int] = ContextVar("tandem_epoch", default=0)


@contextlib.contextmanager
def about(stream: str, epoch: int = 0) -> Iterator[None]:
    """What is logged inside is about this stream, and this placement of it. Tasks made inside inherit it."""
    former = _stream.set(stream), _epoch.set(epoch)
    try:
        yield
    finally:
        _stream.reset(former[0])
        _epoch.reset(former[1])


def is_about(stream: str, epoch: int = 0) -> None:
    """The same until the task that calls this ends."""
    _stream.set(stream)
    _epoch.set(epoch)


def seldom(name: str) -> logging.Logger:
    """A logger of what strangers bring about: it tells once a second at most."""
    logger = logging.getLogger(f"{name}.seldom")
    if not logger.filters:
        logger.addFilter(Seldom(name.partition(".")[0], _SELDOM_S))
    return logger


class Seldom(logging.Filter):
    """Lets what one library logs through once in a while: whoever can have it log must not fill a disk."""

    def __init__(self, library: str, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._library, self._period_s, self._clock = library, period_s, clock
        self._at_s = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a record that came too soon after another of that library."""
        if record.name.partition(".")[0] != self._library:
            return True
        now_s = self._clock()
        if now_s - self._at_s < self._period_s:
            return False
        self._at_s = now_s
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a record, on one line."""

    def __init__(self, role: str, name: str = "") -> None:
        super().__init__()
        self._who = {"role": role} | ({"service": name} if name else {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            **self._who,
            "logger": record.name,
            "message": record.getMessage()[:_MAX_CHARS],
        }
        if stream := _stream.get():
            line["stream"] = stream
            if epoch := _epoch.get():
                line["epoch"] = epoch
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-_MAX_CHARS:]
        return json.dumps(line, ensure_ascii=False)


def make_formatter(log_format: str, role: str, name: str = "") -> logging.Formatter:
    """For every handler of a process. `log_format` is one of `FORMATS`."""
    return JsonFormatter(role, name) if log_format == "json" else logging.Formatter(_TEXT)


def set_up(
    log_format: str, role: str, name: str = "", *, level: int = logging.INFO, shown: int | None = None
) -> None:
    """Log to standard error from now on, from `level` up, of which `shown` and worse reach it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(log_format, role, name))
    handler.setLevel(level if shown is None else shown)
    handler.addFilter(Seldom("grpc", _SELDOM_S))
    logging.basicConfig(level=level, handlers=[handler])


def say(text: str, formatter: logging.Formatter | None = None, *, level: int = logging.INFO) -> None:
    """Tell a person, or with a JSON formatter a machine: errors on standard error, the rest on output."""
    file = sys.stderr if level >= logging.ERROR else sys.stdout
    if isinstance(formatter, JsonFormatter):
        for line in text.splitlines():
            record = logging.LogRecord("tandem", level, "", 0, line, None, None)
            print(formatter.format(record), file=file, flush=True)
    else:
        print(text, file=file, flush=True)
