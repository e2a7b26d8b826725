"""One parser of `foreign_bytes.PARSERS` under atheris; see `scripts/fuzz`. Runs until something breaks."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """The first argument names the parser; the rest is for libFuzzer."""
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    # What parses is instrumented; what it stands on (torch, protobuf) takes minutes to.
    with atheris.instrument_imports(
        include=["tandem", "kv_transfer", "encoder_svc", "reasoner_svc", "orchestrator"]
    ):
        from tests.property.foreign.change import change
        from tests.property.foreign.outcome import site_of
        from tests.property.foreign_bytes import PARSERS
    if len(sys.argv) < 2 or sys.argv[1] not in PARSERS:
        print(f"which parser? One of: {', '.join(PARSERS)}", file=sys.stderr)
        return 2
    parser = PARSERS[sys.argv[1]]
    seeds = parser.seeds() + parser.more()

    def one(data: bytes) -> None:
        site_of(parser, data)

    def mutated(data: bytes, max_bytes: int, number: int) -> bytes:
        """By what the bytes stand for, or by libFuzzer itself, sealed again or not."""
        rng = random.Random(number)
        try:
            changed = change(parser, rng, data if rng.random() < 0.7 else rng.choice(seeds))
        except Exception:  # what came so far is no body of its form any more
            changed = atheris.Mutate(data, max_bytes)
        if rng.random() < 0.3:
            changed = parser.seal(atheris.Mutate(changed[:max_bytes], max_bytes))
        return bytes(changed[:max_bytes])

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], corpus, "-timeout=10", *sys.argv[2:]], one, custom_mutator=mutated)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
