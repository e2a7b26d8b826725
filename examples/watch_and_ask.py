"""Draw a few pictures, push them as a stream, and ask about them. Needs `tandem up` and the media extra.

python examples/watch_and_ask.py [HOST:PORT]
"""

from __future__ import annotations

import asyncio
import io
import sys

from PIL import Image, ImageDraw

import tandem
from tandem.client import MediaKind


def picture(shape: str, colour: str) -> bytes:
    """A JPEG of a circle or a square on black."""
    image = Image.new("RGB", (224, 224), "black")
    pen = ImageDraw.Draw(image)
    draw = pen.ellipse if shape == "circle" else pen.rectangle
    draw((60, 60, 164, 164), fill=colour)
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


async def main(address: str) -> None:
    """Ten seconds at one picture a second, pushed faster than they would be filmed."""
    async with tandem.connect(address) as t, t.watch(MediaKind.PICTURES) as stream:
        for second in range(10):
            shape, colour = ("circle", "red") if second < 5 else ("square", "blue")
            await stream.push_picture(picture(shape, colour), pts_us=second * 1_000_000)
        for question in ("what colour was the circle?", "what is shown now?"):
            answer = await stream.ask(question)
            print(f"{question} {answer.text} (first token after {answer.timings.first_token_ms:.0f} ms)")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7420"))
