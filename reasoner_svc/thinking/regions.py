"""Pure. Splits a worker's output into thinking and answer by a marker that may span tokens.

Text that could still become the marker is held back, as `decode.stop` does for stop texts::

    seen:       "so it is red.</th" + "ink> red"          marker "</think>"
    thinking:   "so it is red."       ""
    answer:                            " red"
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_svc.decode.stop import StopMatcher
from reasoner_svc.thinking.base import Region


@dataclass(frozen=True, slots=True)
class Split:
    """What one piece of text turned out to be."""

    thinking: str = ""
    answer: str = ""


class Regions:
    """Watches the text of one worker."""

    def __init__(self, close: str) -> None:
        """`close` ends thinking; empty: there is no thinking, all is answer."""
        self._close = close
        self._marker = StopMatcher((close,) if close else ())
        self.region = Region.THINKING if close else Region.ANSWER

    def push(self, text: str) -> Split:
        """More text."""
        if self.region is Region.ANSWER:
            return Split(answer=text)
        before = self._marker.held
        released = self._marker.push(text)
        if not released.stopped:
            return Split(thinking=released.text)
        self.region = Region.ANSWER
        after = (before + text)[len(released.text) + len(self._close) :]
        return Split(released.text, after)

    def finish(self) -> Split:
        """Nothing more comes: what was held back is thinking after all."""
        return Split(thinking=self._marker.finish()) if self.region is Region.THINKING else Split()
