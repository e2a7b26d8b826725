"""What became of a message: taken, or refused, and where. Tells how deep changed messages get."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import TracebackType

from tests.property.foreign.parser import Parser

Site = tuple[tuple[str, int], ...]
"""File and line that an error came from, and those of the errors behind it; empty: it was taken."""
_BLIND = 200


def _line(traceback: TracebackType | None) -> tuple[str, int]:
    if traceback is None:
        return "", 0
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno


def site_of(parser: Parser, data: bytes) -> Site:
    """Where it was refused. Raises what no parser may raise."""
    try:
        parser.parse(data)
    except parser.refuses as error:
        found: list[tuple[str, int]] = []
        one: BaseException | None = error
        while one is not None:
            found.append(_line(one.__traceback__))
            one = one.__cause__ if one.__cause__ is not one else None
        return tuple(found)
    return ()


def blind_sites(parser: Parser, rng: random.Random) -> set[Site]:
    """Where random bytes are refused: what is turned away there never came near the parser."""
    blind = (rng.randbytes(rng.choice((0, 1, 8, 40, 300))) for _ in range(_BLIND))
    return {site for data in blind if (site := site_of(parser, data))}


@dataclass
class Depth:
    """How deep the messages of one parser got."""

    blind: set[Site]
    messages: int = 0
    deep: int = 0
    taken: int = 0
    sites: set[Site] = field(default_factory=set)

    def count(self, site: Site) -> None:
        self.messages += 1
        self.deep += site not in self.blind
        self.taken += not site
        self.sites.add(site)

    @property
    def share(self) -> float:
        return self.deep / max(self.messages, 1)

    def __str__(self) -> str:
        taken = self.taken / max(self.messages, 1)
        places = len(self.sites - {()})
        deep = f"{self.share:.0%} past the first check, {taken:.0%} taken"
        return f"{self.messages} messages, {deep}, refused at {places} places"
