"""Ask about a stream that another program feeds, and print the answer as it comes.

python examples/second_client.py STREAM QUESTION [HOST:PORT]
"""

from __future__ import annotations

import asyncio
import sys

import tandem
from tandem.client import Answer


async def main(stream_id: str, question: str, address: str) -> None:
    """One question."""
    async with tandem.connect(address) as t:
        async for piece in t.ask_stream(stream_id, question):
            if isinstance(piece, Answer):
                print(f"\n(watched up to {piece.watermark_us / 1e6:.1f} s)")
            else:
                print(piece, end="", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1:7420"))
