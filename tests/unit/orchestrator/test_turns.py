"""Turns to move to a reasoner: nobody keeps one, and whoever waits finds out what changed meanwhile."""

from __future__ import annotations

import asyncio

from orchestrator.moving import Moves, Turn, until_better
from orchestrator.placement import Placed
from orchestrator.service import MOVES_AT_ONCE
from tests.unit.orchestrator.test_door import Town, identity

HERE = Placed(identity("encoder-0"), identity("reasoner-0"), "because")


def leave(town: Town, turns: list[Turn]) -> list[asyncio.Task[Moves]]:
    """One stream for each turn, all on `HERE`, of which the reasoner leaves."""
    waits = []
    for turn in turns:
        session = town.stream("encoder-0", "reasoner-0")
        work = until_better(session, town.cluster, HERE, 0.0, turn, needs_encoder=True)
        waits.append(asyncio.ensure_future(work))
    town.cluster.drain("reasoner-0", 1000)
    return waits


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_has_a_turn_moves_and_the_next_one_goes_when_it_is_given_back() -> None:
    town = Town("encoder-0", "reasoner-0", "reasoner-1")
    turns = [Turn() for _ in range(MOVES_AT_ONCE + 2)]
    waits = leave(town, turns)
    await rest()
    assert [wait.done() for wait in waits] == [True] * MOVES_AT_ONCE + [False] * 2
    moves = waits[0].result()
    assert (str(moves), moves.to.reasoner.name) == ("reasoner-0 leaves", "reasoner-1")
    assert {session.going_to[1] for session in town.sessions} == {"reasoner-1"}, "those that wait are counted"
    waits[-2].cancel()  # closed while it waited: it takes nobody's turn
    turns[0].give_back()
    turns[0].give_back()
    await rest()
    assert waits[-1].done()
    for turn in turns:
        turn.give_back()
    service = town.cluster.service("reasoner-1")
    assert service is not None
    for _ in range(MOVES_AT_ONCE):
        await service.turns.acquire()
    assert service.turns.locked(), "none was lost, and none came of nothing"
    await town.cluster.close()


async def test_who_waits_for_a_reasoner_that_is_lost_goes_to_another() -> None:
    town = Town("encoder-0", "reasoner-0", "reasoner-1")
    turns = [Turn() for _ in range(MOVES_AT_ONCE + 1)]
    waits = leave(town, turns)
    await rest()
    assert not waits[-1].done()
    town.cluster.departed(identity("reasoner-1"), "killed")
    town.add("reasoner-2", {})
    turns[0].give_back()  # its move failed
    await rest()
    assert waits[-1].result().to.reasoner.name == "reasoner-2"
    await town.cluster.close()
