"""Pure: what a command is, and what its exit codes mean. Imports nothing heavy, so that help is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from tandem.core.errors import (
    BadMedia,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    TandemError,
    Unavailable,
)
from tandem.core.timeline import parse_time
from tandem.core.tls_files import add_tls_arguments, tls_from_arguments

if TYPE_CHECKING:
    from tandem.client.security import Security

DEFAULT_ADDRESS = "127.0.0.1:7420"


class Exit(IntEnum):
    """Exit codes of every command; `docs/client.md` has the table."""

    OK = 0
    FINDING = 1
    """The command ran and what it looked at is not right: a wrong answer, a failed check."""
    USAGE = 2
    """The command line cannot be understood (argparse's own code)."""
    UNREACHABLE = 3
    """No server, or it did not answer in time."""
    BAD_SOURCE = 4
    """The video cannot be read, or is broken or cut off."""
    REFUSED = 5
    """The server refused: unknown stream, over a limit, not possible now."""
    INTERNAL = 6
    """A fault of ours."""
    INTERRUPTED = 130
    """Stopped with Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand: its words for people, its arguments, and what it does."""

    name: str
    summary: str
    example: str
    """One or more command lines that work."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def exit_code(error: TandemError) -> Exit:
    """What to exit with after `error`."""
    if isinstance(error, BadMedia):
        return Exit.BAD_SOURCE
    if isinstance(error, Unavailable | DeadlineExceeded):
        return Exit.UNREACHABLE
    return Exit.INTERNAL if type(error) is TandemError or error.code == "internal" else Exit.REFUSED


def source_exit_code(error: TandemError) -> Exit:
    """What to exit with when a source could not be opened or broke off with `error`."""
    if isinstance(error, BadMedia | NotFound | Unavailable):
        return Exit.BAD_SOURCE
    return Exit.USAGE if isinstance(error, InvalidInput) else exit_code(error)


def add_address(parser: argparse.ArgumentParser) -> None:
    """The options that every command with a server has: where it is, and how to speak to it."""
    add_tls_arguments(parser, serves=False)
    parser.add_argument("--token-file", default="", metavar="FILE", help="file with the token to show")
    parser.add_argument(
        "--address",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"where the services listen (default {DEFAULT_ADDRESS})",
    )


def security_of(arguments: argparse.Namespace) -> Security:
    """How the server is called, from the options. Raises `InvalidInput` that names each problem."""
    from tandem.client.security import Security

    tls = tls_from_arguments(arguments)
    if problems := tls.problems():
        raise InvalidInput("\n".join(problems))
    return Security(tls=tls, token_file=arguments.token_file)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """The option for machines."""
    parser.add_argument("--json", action="store_true", help=f"print {what} for machines")


def stream_time(text: str) -> int:
    """Argument type: a stream time in microseconds."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> float:
    """Argument type: a number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above zero, not {text!r}")
    return value


def whole(text: str) -> int:
    """Argument type: a whole number, zero included."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, not {text!r}")
    return number
