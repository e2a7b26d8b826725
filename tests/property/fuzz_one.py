"""One parser of `foreign_bytes.PARSERS` under atheris; see `scripts/fuzz`. Runs until something breaks."""

from __future__ import annotations

import contextlib
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
    with atheris.instrument_imports():
        from tests.property.foreign_bytes import PARSERS
    if len(sys.argv) < 2 or sys.argv[1] not in PARSERS:
        print(f"which parser? One of: {', '.join(PARSERS)}", file=sys.stderr)
        return 2
    parser = PARSERS[sys.argv[1]]

    def one(data: bytes) -> None:
        for message in (data, parser.seal(data)):
            with contextlib.suppress(*parser.refuses):
                parser.parse(message)

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(parser.seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], corpus, *sys.argv[2:]], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
