"""Pure but for its outbox: the text of one answer on its way out, token by token, up to a stop text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.stop import StopMatcher

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout


class Speech:
    """What an answer says."""

    def __init__(self, prompt: PromptLayout, stops: tuple[str, ...], outbox: Outbox) -> None:
        self._words = prompt.text_stream()
        self._stop = StopMatcher(stops)
        self._outbox = outbox
        self._sent: list[str] = []

    @property
    def text(self) -> str:
        """All that was sent."""
        return "".join(self._sent)

    def push(self, token: int) -> bool:
        """The next token; sends what is certain. True when a stop text was met."""
        return self.say(self._words.push(token))

    def finish(self) -> bool:
        """No more tokens; sends what was held back. True when a stop text was met in it."""
        stopped = self.say(self._words.finish())
        self._send(self._stop.finish())
        return stopped

    def say(self, text: str) -> bool:
        """More text; sends what is certain. True when a stop text was met."""
        released = self._stop.push(text)
        self._send(released.text)
        return released.stopped

    def _send(self, text: str) -> None:
        if text:
            self._sent.append(text)
            self._outbox.put(text)
