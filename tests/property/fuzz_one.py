"""Parsers of `foreign_bytes.PARSERS` under atheris; see `scripts/fuzz`. Runs until something breaks."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

OURS = ["tandem", "kv_transfer", "encoder_svc", "reasoner_svc", "orchestrator"]
"""What is instrumented: what it stands on (torch, protobuf) would take minutes."""
ALL = "all"


def main() -> int:
    """The first argument names the parser, or `all`; the rest is for libFuzzer."""
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=OURS):
        from tests.property.foreign.change import change
        from tests.property.foreign.outcome import site_of
        from tests.property.foreign_bytes import PARSERS
    if len(sys.argv) < 2 or sys.argv[1] not in {ALL, *PARSERS}:
        print(f"which parser? One of: {ALL}, {', '.join(PARSERS)}", file=sys.stderr)
        return 2
    parsers = list(PARSERS.values()) if sys.argv[1] == ALL else [PARSERS[sys.argv[1]]]
    seeds = [parser.seeds() + parser.more() for parser in parsers]

    def one(data: bytes) -> None:
        """The first byte says which of the parsers; the rest is for it."""
        if data:
            site_of(parsers[data[0] % len(parsers)], data[1:])

    def mutated(data: bytes, max_bytes: int, number: int) -> bytes:
        """By what the bytes stand for, or by libFuzzer itself, sealed again or not."""
        rng = random.Random(number)
        which = data[0] % len(parsers) if data and rng.random() < 0.8 else rng.randrange(len(parsers))
        parser, body = parsers[which], data[1:]
        try:
            changed = change(parser, rng, body if rng.random() < 0.7 else rng.choice(seeds[which]))
        except Exception:  # what came so far is no body of its form any more
            changed = atheris.Mutate(body, max_bytes - 1)
        if rng.random() < 0.3:
            changed = parser.seal(atheris.Mutate(changed[: max_bytes - 1], max_bytes - 1))
        return bytes([which]) + changed[: max_bytes - 1]

    with tempfile.TemporaryDirectory() as corpus:
        for which, examples in enumerate(seeds):
            for number, seed in enumerate(examples):
                (Path(corpus) / f"{which}-{number}").write_bytes(bytes([which]) + seed)
        atheris.Setup([sys.argv[0], corpus, "-timeout=10", *sys.argv[2:]], one, custom_mutator=mutated)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
