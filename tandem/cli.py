"""Shell: the `tandem` command. Parses first and imports what is heavy after, so that help is instant."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from tandem import __version__
from tandem.commands import ask, bench, demo, doctor, drain, forget, load, plan, streams, token, watch
from tandem.commands.base import Command, Exit, exit_code
from tandem.core.errors import TandemError

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    watch.COMMAND,
    ask.COMMAND,
    streams.COMMAND,
    forget.COMMAND,
    drain.COMMAND,
    token.COMMAND,
    doctor.COMMAND,
    plan.COMMAND,
    load.COMMAND,
    bench.COMMAND,
)

SERVICES = {
    "up": ("orchestrator.up", "start everything on this machine, in the foreground"),
    "orchestrator": ("orchestrator.__main__", "run the front door alone"),
    "encoder": ("encoder_svc.__main__", "run one encoder"),
    "reasoner": ("reasoner_svc.__main__", "run one reasoner"),
}
"""Subcommands that belong to a service: it parses its own arguments and has its own help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see `tandem.commands.base.Exit`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in SERVICES:
            return _run_service(arguments[0], arguments[1:])
        parsed = _parser().parse_args(arguments)
        command: Command = parsed.command
        return command.run(parsed)
    except TandemError as error:
        from tandem.commands.words import error_words

        print(f"tandem: {error_words(error)}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output left (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem",
        description="Watches live video and answers questions about it while it watches.",
        epilog="example:\n  tandem demo\n  tandem up &\n  tandem watch clip.mp4 --ask 'What was shown?'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tandem {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (_, summary) in SERVICES.items():
        # Only for the list of commands: what they are called with never reaches this parser.
        subparsers.add_parser(name, help=summary, add_help=False)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog="example:\n" + "\n".join(f"  {line}" for line in command.example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(command=command)
    return parser


def _run_service(name: str, arguments: list[str]) -> int:
    module = importlib.import_module(SERVICES[name][0])
    result: int | None = module.main(arguments)
    return result or Exit.OK


if __name__ == "__main__":
    raise SystemExit(main())
