"""Play a video file at its own pace and print what happens. Needs `tandem up` and the media extra.

python examples/play_file.py FILE [HOST:PORT]
"""

from __future__ import annotations

import asyncio
import sys

import tandem
from tandem.client.sources import feed, open_source


async def main(path: str, address: str) -> None:
    """Feed the file and read the events beside it."""
    source = open_source(path)
    async with tandem.connect(address) as t, t.watch(source) as stream:
        events = stream.events()
        fed = await feed(stream, source)
        await stream.end()
        async for event in events:
            print(event)
        if fed.error:
            print(f"the file: {fed.error}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:7420"))
