"""Shell: `tandem token`: make a token for the front door, and the lines that let it in."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

from tandem.commands.base import Command, Exit
from tandem.core.errors import InvalidInput

_EXAMPLE = """\
tandem token --tenant acme --out acme.token >> tokens.toml
tandem token --right admin --name operators --out admin.token >> tokens.toml"""

_TOKEN_BYTES = 32


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the token goes here (new, 0600)"
    )
    parser.add_argument("--tenant", default="default", metavar="NAME", help="whose streams it is for")
    parser.add_argument(
        "--right",
        action="append",
        choices=("watch", "ask", "admin"),
        help="what it may do, more than once (default: watch and ask)",
    )
    parser.add_argument("--name", default="", help="for logs: who has it")


def _run(arguments: argparse.Namespace) -> int:
    from orchestrator.access import digest, parse_tokens

    token = secrets.token_urlsafe(_TOKEN_BYTES)
    entry = {
        "name": arguments.name or str(arguments.out.name),
        "sha256": digest(token),
        "tenant": arguments.tenant,
        "rights": arguments.right or ["watch", "ask"],
    }
    # The strings and lists of JSON are those of TOML.
    text = "[[token]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    parse_tokens(text, "the token")
    _write(arguments.out, token)
    print(text)
    print(f"the token is in {arguments.out}; add the lines above to the file of --tokens", file=sys.stderr)
    return Exit.OK


def _write(path: Path, token: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(handle, "w") as file:
        file.write(f"{token}\n")


COMMAND = Command(
    name="token",
    summary="make a token for the front door, and print the lines that let it in",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
