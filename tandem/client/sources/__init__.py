"""Where video comes from: files, cameras, addresses, directories. Needs the ``media`` extra.

::

    source = open_source("clip.mp4")
    async with tandem.connect() as t, t.watch(source) as stream:
        await feed(stream, source)
"""

from tandem.client.sources.base import Piece, Source
from tandem.client.sources.choose import open_source
from tandem.client.sources.feed import Fed, feed

__all__ = ["Fed", "Piece", "Source", "feed", "open_source"]
