"""Pure: the option that takes a stream time and a question."""

from __future__ import annotations

import argparse

from tandem.commands.base import stream_time


class AskAt(argparse.Action):
    """Collects pairs of a stream time and a question."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Add the pair of one use of the option."""
        assert isinstance(values, list), values
        time, question = values
        try:
            pair = (stream_time(time), question)
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument {option_string}: {error}")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), pair])
