"""Pure. Which numbers of a stream are visible: the contiguous run from 0 that landed or is declared missing.

Blocks of one stream are numbered without holes; bytes may land in any order (a damaged layer is sent
again). A reader must never see number n without knowing what became of every smaller number, so::

    0 ......................... next ......... room_end
    [ visible: landed or skipped )[ some landed, all have room )

*Watermark rule.* Number n becomes visible at the moment when every number up to and including n has landed
or been skipped (declared a gap); the stream's watermark is the end of the last visible block. Visible
numbers stay visible here when their blocks are evicted later: eviction is reported by time, not by number.

*Room rule.* Room is only given in order: a number gets room when all before it have it. Otherwise blocks
that cannot become visible could fill the store and leave no room for the one that they wait for.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Frontier:
    """Progress of one stream's numbers."""

    next: int = 0
    """First number that is not visible; all below are."""
    _arriving: set[int] = field(default_factory=set)
    _landed: set[int] = field(default_factory=set)
    _skipped: set[int] = field(default_factory=set)

    def may_take_room(self, number: int) -> bool:
        """True when every number from `next` up to `number` has its room already."""
        return all(
            n in self._arriving or n in self._landed or n in self._skipped for n in range(self.next, number)
        )

    def take_room(self, number: int) -> None:
        """Room was given to a number that is not visible yet."""
        assert number >= self.next, (number, self.next)
        assert number not in self._landed, number
        self._arriving.add(number)

    def give_up(self, number: int) -> None:
        """The number's bytes will not come this time."""
        self._arriving.discard(number)

    def land(self, number: int) -> list[int]:
        """The number's bytes are complete; returns the numbers that become visible, ascending."""
        assert number in self._arriving, f"{number} landed without room"
        self._arriving.remove(number)
        self._landed.add(number)
        return self._advance()

    def skip(self, start: int, end: int) -> list[int]:
        """Declare the numbers [start, end) missing for good; returns landed numbers that become visible."""
        self._skipped.update(n for n in range(max(start, self.next), end) if n not in self._landed)
        return self._advance()

    def resume(self, next_number: int) -> None:
        """A stream is taken up from disk: every number below is held or known to be missing."""
        assert self.next == 0, self.next
        self.next = next_number

    def restart(self) -> None:
        """A new writer begins at `next`: what was on its way or hidden is void."""
        self._arriving.clear()
        self._landed.clear()

    @property
    def hidden(self) -> int:
        """Numbers that landed and are not visible."""
        return len(self._landed)

    def _advance(self) -> list[int]:
        visible: list[int] = []
        while self.next in self._landed or self.next in self._skipped:
            if self.next in self._landed:
                self._landed.remove(self.next)
                visible.append(self.next)
            self._skipped.discard(self.next)
            self.next += 1
        return visible
