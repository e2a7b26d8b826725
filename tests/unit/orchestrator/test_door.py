"""What is known of loads while many streams are placed in the same moment, and what asking for it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from orchestrator.backlog import Bounds
from orchestrator.cluster import Cluster
from orchestrator.door import Door
from orchestrator.limits import Limits
from orchestrator.membership import Identity, Role
from orchestrator.placement import Placed
from orchestrator.quotas import Quota, Quotas
from orchestrator.session import Session
from orchestrator.settings import SessionSettings
from orchestrator.terms import Terms
from tandem.core import overload
from tandem.core.clock import ManualClock
from tandem.core.errors import LimitExceeded
from tandem.core.ids import StreamId
from tandem.wire.gen.tandem.v1 import types_pb2

MODEL = types_pb2.ModelInfo(source="fake", fingerprint="f", native_fps=2.0)
KNOWN = {
    overload.UNIT_SECONDS: "0.02",
    overload.FRAMES_PER_UNIT: "2",
    overload.UNIT_TOKENS: "64",
    overload.TOKEN_BYTES: "1000",
    overload.WINDOW_UNITS: "50",
    overload.RAM_BUDGET_BYTES: "1e9",
}


def identity(name: str) -> Identity:
    role = Role(name.rpartition("-")[0])
    return Identity(name=name, role=role, address="127.0.0.1:1", boot_id=name, fingerprint="f")


class Town:
    """A cluster of services that say `details`, and streams that have been watched on some of them."""

    def __init__(
        self, *names: str, details: dict[str, str] | None = None, quotas: Quotas | None = None
    ) -> None:
        self.clock = ManualClock(100.0)
        self.cluster = Cluster(b"s" * 32, 3.0, 1.0, self.clock)
        self.sessions: list[Session] = []
        self.looks = 0
        self.door = Door(self.cluster, quotas or Quotas(), self._each, self.clock, 10_000)
        self.cluster.loads = self.door.loads
        for name in names:
            self.add(name, details or {})

    def add(self, name: str, details: dict[str, str]) -> None:
        self.cluster.attach(identity(name), types_pb2.BuildInfo(), MODEL)
        self.cluster.heartbeat(identity(name), 0, details)

    def _each(self) -> Iterator[Session]:
        self.looks += 1
        return iter(self.sessions)

    def stream(self, encoder: str, reasoner: str) -> Session:
        settings = SessionSettings(limits=Limits(), bounds=Bounds())
        name = StreamId(f"cam-{len(self.sessions)}")
        session = Session(name, types_pb2.MediaOptions(), settings, self.clock)
        session.encoder, session.reasoner, session.epoch = encoder, reasoner, 1
        self.sessions.append(session)
        return session

    def place(self, session: Session) -> Placed:
        placed = self.cluster.place(session.encoder, session.reasoner)
        assert isinstance(placed, Placed)
        self.cluster.head_for(session, placed)
        return placed


async def test_streams_of_a_lost_encoder_spread_though_they_are_placed_in_one_moment() -> None:
    for details in ({}, KNOWN):
        town = Town("encoder-0", "encoder-1", "encoder-2", "reasoner-0", details=details)
        streams = [town.stream("encoder-0", "reasoner-0") for _ in range(40)]
        town.door.loads()
        town.cluster.departed(identity("encoder-0"), "killed")
        got = Counter(town.place(session).encoder.name for session in streams)
        assert set(got) == {"encoder-1", "encoder-2"}
        assert min(got.values()) >= 15, got
        assert town.looks <= 1, "none of them has to look at all of them"
        mended = dict(town.door.loads())
        town.clock.advance(1.0)
        seen = town.door.loads()
        for name in ("encoder-1", "encoder-2", "reasoner-0"):
            assert abs(mended[name] - seen[name]) < 1e-9, "what was mended is what is summed up"
        await town.cluster.close()


async def test_one_that_attaches_in_the_same_moment_does_not_get_them_all() -> None:
    town = Town("encoder-0", "reasoner-0", details=KNOWN)
    streams = [town.stream("encoder-0", "reasoner-0") for _ in range(40)]
    town.door.loads()
    town.cluster.departed(identity("encoder-0"), "killed")
    town.add("encoder-1", {})
    town.add("encoder-2", KNOWN)
    got = Counter(town.place(session).encoder.name for session in streams)
    assert min(got["encoder-1"], got["encoder-2"]) >= 10, got
    await town.cluster.close()


async def test_a_stream_that_is_on_its_way_counts_where_it_goes_only() -> None:
    town = Town("encoder-0", "encoder-1", "reasoner-0", details=KNOWN)
    session = town.stream("encoder-0", "reasoner-0")
    one = town.door.loads()["encoder-0"]
    assert one > 0
    placed = Placed(identity("encoder-1"), identity("reasoner-0"), "because")
    for _ in range(3):
        town.cluster.head_for(session, placed)
    assert (town.door.loads()["encoder-0"], town.door.loads()["encoder-1"]) == (0.0, one)
    session.going_to = ("", "")
    town.clock.advance(1.0)
    assert (town.door.loads()["encoder-0"], town.door.loads()["encoder-1"]) == (one, 0.0)
    await town.cluster.close()


async def test_while_nothing_leaves_nothing_is_looked_at() -> None:
    town = Town("encoder-0", "encoder-1", "reasoner-0", "reasoner-1")
    town.stream("encoder-0", "reasoner-0")
    pair = identity("encoder-0"), identity("reasoner-0")
    for _ in range(10):
        town.clock.advance(1.0)
        assert town.cluster.better_place(*pair) is None
    assert town.looks == 0
    town.cluster.drain("reasoner-1", 1000)
    assert town.cluster.better_place(*pair) is None
    assert town.looks == 0, "it is not there"
    town.cluster.drain("encoder-0", 1000)
    for _ in range(10):
        better = town.cluster.better_place(*pair)
        assert better is not None
        assert (better[0].encoder.name, better[1]) == ("encoder-1", "encoder-0 leaves")
    assert town.looks == 1, "one look serves all that ask in the same moment"
    assert town.cluster.better_place(None, pair[1]) is None
    await town.cluster.close()


async def test_a_crowd_does_not_come_back_at_once_and_costs_only_its_own_tenant() -> None:
    few = Quotas(default=Quota(), tenants={"few": Quota(streams=1)})
    town = Town("encoder-0", "reasoner-0", details=KNOWN | {overload.UNIT_SECONDS: "0.4"}, quotas=few)
    there = [town.stream("encoder-0", "reasoner-0") for _ in range(2)]  # a third would need 1.2

    def ask(name: str, tenant: str = "default") -> float:
        settings = SessionSettings(limits=Limits(), bounds=Bounds())
        session = Session(StreamId(name), types_pb2.MediaOptions(), settings, town.clock)
        with pytest.raises(LimitExceeded) as refused:
            town.door.admit(session, tenant, is_new=True)
        return refused.value.retry_after_s or 0.0

    there[0].terms = Terms(tenant="few")
    town.clock.advance(100.0)  # streams last about that long, so one of two ends every 50 s
    over_s = ask("over", "few")
    waits_s = [ask(f"cam-{number}") for number in range(200)]
    for one_s, next_s in pairwise(waits_s):
        assert next_s - one_s == pytest.approx(0.1), "they come again one after the other"
    assert ask("honest", "another") == waits_s[0], "a tenant that floods waits longer itself, others do not"
    assert ask("over", "few") == over_s, "a quota is its tenant's own"
    town.clock.advance(300.0)
    assert ask("later") < waits_s[0] * 4 + 0.1, "what is long ago counts no more; streams are older now"
    await town.cluster.close()
