"""Who is let in, at which rate, and when a refused stream should come again."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from orchestrator.admission import MAX_RETRY_S, MIN_RETRY_S, Admitted, Refused, admit, retry_after
from orchestrator.capacity import (
    EncoderRoom,
    Held,
    ReasonerRoom,
    encoder_room,
    loads,
    reasoner_room,
)
from orchestrator.membership import Identity, Member, Role, Standing
from tandem.core.overload import MAX_SHARE, Overload

ENCODER = EncoderRoom(
    name="encoder-0",
    fingerprint="f",
    native_fps=2.0,
    frames_per_unit=2.0,
    unit_seconds=0.1,
    unit_tokens=64,
    token_bytes=1000,
    window_units=50,
)
"""9 units a second; a stream of its own rate is one."""
REASONER = ReasonerRoom(name="reasoner-0", fingerprint="f", ram_bytes=1e9)


def held(count: int, **changes: object) -> list[Held]:
    one = Held(tenant="default", fps=0.0, encoder="encoder-0", reasoner="reasoner-0")
    return [replace(one, **changes) for _ in range(count)]  # type: ignore[arg-type]


def ask(
    wish: Held | None = None,
    there: list[Held] | None = None,
    **rooms: object,
) -> Admitted | Refused:
    encoder = replace(ENCODER, **{k: v for k, v in rooms.items() if k != "ram_bytes"})  # type: ignore[arg-type]
    reasoner = replace(REASONER, ram_bytes=rooms.get("ram_bytes", 1e9))  # type: ignore[arg-type]
    wish = wish or Held(tenant="default", fps=0.0)
    return admit(wish, [encoder], [reasoner], there or [], now_s=1000.0, life_s=60.0)


def test_streams_are_let_in_until_nine_tenths_are_promised() -> None:
    assert isinstance(ask(there=held(8)), Admitted)
    refused = ask(there=held(9))
    assert isinstance(refused, Refused)
    assert refused.reason == (
        "encoder-0 can do 9 units a second, 9 are kept for 9 streams; this stream needs at least 1"
    )
    # A ninth of what is promised has to become free, and streams last a minute.
    assert refused.retry_after_s == pytest.approx(60 / 9)
    shared = ask(there=held(9), limit="processors")
    assert isinstance(shared, Refused)
    assert "9 units a second, as far as its processors go, 9 are kept" in shared.reason
    assert shared.retry_after_s == 5.0, "what others use of them changes within seconds"


def test_a_client_that_accepts_less_gets_its_fair_share_of_the_rest() -> None:
    flexible = Held(tenant="default", fps=4.0, min_fps=0.5)
    found = ask(flexible, held(8))
    assert isinstance(found, Admitted)
    assert found.is_degraded
    assert found.fps == pytest.approx(2.0)
    assert "its fair share of the rest is 2 frames per second" in found.reason
    full = ask(flexible, held(7))
    assert isinstance(full, Admitted)
    assert not full.is_degraded
    among = ask(flexible, held(9, fps=4.0, min_fps=0.5))
    assert isinstance(among, Admitted)
    assert among.fps == pytest.approx(1.8), "all of them give: 18 frames a second over ten"
    assert isinstance(ask(replace(flexible, min_fps=4.0), held(8)), Refused)


def test_what_is_not_known_or_alone_is_let_in() -> None:
    for found in (
        ask(there=held(50), unit_seconds=0.0),
        ask(Held(tenant="default", fps=200.0)),
        admit(Held(tenant="t", fps=0.0), [], [], held(9), now_s=0.0, life_s=0.0),
        admit(
            Held(tenant="t", fps=0.0), [ENCODER], [replace(REASONER, fingerprint="g")], [], now_s=0, life_s=0
        ),
    ):
        assert isinstance(found, Admitted), found
        assert found.reason
        assert not found.is_degraded
    # What needs more than a whole encoder keeps half of it, so that the next one may come.
    assert isinstance(ask(there=held(1, fps=200.0)), Admitted)
    assert isinstance(ask(Held(tenant="default", fps=200.0), held(1)), Refused)


def test_an_encoder_that_leaves_frames_out_takes_no_new_streams() -> None:
    refused = ask(there=held(2), overload=Overload.GAPS)
    assert isinstance(refused, Refused)
    assert refused.reason == "encoder-0 leaves frames out of the 2 streams that it has"
    assert refused.retry_after_s == pytest.approx(30.0), "one of two, that last a minute"
    assert isinstance(ask(there=held(2), overload=Overload.GAPS, unit_seconds=0.0), Refused)
    late = ask(there=held(2), overload=Overload.LATE)
    assert isinstance(late, Refused)
    assert late.reason == "encoder-0 is late with the 2 streams that it has"
    assert isinstance(ask(overload=Overload.LATE), Admitted), "it has none: it catches up"
    assert isinstance(ask(there=held(2), overload=Overload.RATES), Admitted)


def test_notes_that_are_on_no_disk_leave_less_for_windows() -> None:
    window = ENCODER.window_bytes
    wish = Held(tenant="default", fps=0.0)
    full = replace(REASONER, ram_bytes=3 * window / 0.8 + 2)
    for notes_bytes, there, expected in ((0, 2, Admitted), (window, 1, Admitted), (window, 2, Refused)):
        room = replace(full, notes_bytes=notes_bytes)
        assert isinstance(admit(wish, [ENCODER], [room], held(there), now_s=0.0, life_s=60.0), expected)
    over = admit(wish, [ENCODER], [replace(full, notes_bytes=1e12)], held(1), now_s=0.0, life_s=60.0)
    assert isinstance(over, Refused)
    assert "of the 0 MB" in over.reason


def test_windows_must_fit_into_the_reasoners_memory() -> None:
    window = ENCODER.window_bytes
    assert window == 50 * 64 * 1000
    assert isinstance(ask(there=held(2), ram_bytes=3 * window / 0.8 + 1), Admitted)
    refused = ask(there=held(3), ram_bytes=3 * window / 0.8 + 1)
    assert isinstance(refused, Refused)
    assert "reasoner-0" in refused.reason
    assert refused.retry_after_s == pytest.approx(20.0, rel=1e-3)


def test_the_pair_with_the_most_room_is_taken() -> None:
    others = [replace(ENCODER, name="encoder-1"), replace(ENCODER, name="encoder-2", fingerprint="g")]
    found = admit(Held(tenant="t", fps=0.0), [ENCODER, *others], [REASONER], held(9), now_s=0.0, life_s=0.0)
    assert isinstance(found, Admitted)
    assert found.encoder == "encoder-1"


def test_the_time_to_come_again_is_the_earlier_of_two() -> None:
    one = Held(tenant="t", fps=0.0, opened_s=900.0)
    leaving = replace(one, leaves_s=1004.0)
    frees = [(0.1, one), (0.1, leaving)]
    assert retry_after(0.1, frees, now_s=1000.0, life_s=600.0) == pytest.approx(4.0)
    assert retry_after(0.15, frees, now_s=1000.0, life_s=600.0) == pytest.approx(450.0)
    assert retry_after(0.1, frees[:1], now_s=1000.0, life_s=0.0) == pytest.approx(100.0)  # by their age
    assert retry_after(0.1, frees, now_s=1003.9, life_s=600.0) == MIN_RETRY_S
    assert retry_after(0.1, [], now_s=0.0, life_s=1.0) == MAX_RETRY_S


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_promised_twice_nobody_loses_its_room_and_nothing_is_stuck(seed: int) -> None:
    chance = random.Random(seed)
    encoders = [replace(ENCODER, name=f"encoder-{k}") for k in range(2)]
    reasoners = [
        replace(REASONER, name=f"reasoner-{k}", ram_bytes=chance.uniform(1e7, 5e7)) for k in range(2)
    ]
    there: list[Held] = []
    refusals = 0
    for _ in range(400):
        if there and chance.random() < 0.4:
            there.pop(chance.randrange(len(there)))
        fps = chance.choice((0.5, 2.0, 8.0, 30.0))
        wish = Held(tenant="t", fps=fps, min_fps=chance.choice((0.0, fps / 4)))
        before = list(there)
        found = admit(wish, encoders, reasoners, there, now_s=0.0, life_s=30.0)
        assert there == before
        if isinstance(found, Refused):
            refusals += 1
            assert MIN_RETRY_S <= found.retry_after_s <= MAX_RETRY_S
            # It is refused by those that are there, and by nothing else: with them gone it fits.
            assert isinstance(admit(wish, encoders, reasoners, [], now_s=0.0, life_s=30.0), Admitted)
        else:
            there.append(replace(wish, encoder=found.encoder, reasoner=found.reasoner))
        for e in encoders:
            floors = [stream.floor(e) for stream in there if stream.encoder == e.name]
            assert sum(floors) <= MAX_SHARE + 1e-6
        for r in reasoners:
            streams = sum(stream.reasoner == r.name for stream in there)
            assert streams <= 1 or streams * ENCODER.window_bytes <= 0.8 * r.ram_bytes
    assert refusals > 20


# -- what services say --


def member(role: Role, **details: str) -> Member:
    identity = Identity(name=f"{role}-0", role=role, address="a:1", boot_id="b", fingerprint="f")
    return Member(identity=identity, standing=Standing.READY, seen_s=0.0, details=details)


def test_rooms_are_read_from_heartbeats_and_nonsense_is_nothing() -> None:
    room = encoder_room(
        member(Role.ENCODER, unit_seconds="0.05", unit_tokens="64", frames_per_unit="2", overload="gaps"), 2.0
    )
    assert (room.unit_seconds, room.frames_per_unit, room.overload) == (0.05, 2.0, Overload.GAPS)
    assert room.share(0.0) == pytest.approx(0.05)
    assert room.units_per_second == pytest.approx(18.0)
    silly = encoder_room(
        member(Role.ENCODER, unit_seconds="nan", unit_tokens="-3", frames_per_unit="0", overload="?"), 2.0
    )
    assert (silly.unit_seconds, silly.unit_tokens, silly.frames_per_unit) == (0.0, 0.0, 1.0)
    assert silly.overload is Overload.NONE
    assert not silly.is_known
    assert reasoner_room(member(Role.REASONER, ram_budget_bytes="x")).ram_bytes == 0.0
    assert reasoner_room(member(Role.REASONER, ram_budget_bytes="12")).ram_bytes == 12.0
    assert reasoner_room(member(Role.REASONER, notes_bytes="5")).notes_bytes == 5.0


def test_loads_are_what_was_measured_or_what_is_known_to_be_needed() -> None:
    encoders = {
        "encoder-0": replace(ENCODER, busy_share=0.1),
        "encoder-1": replace(ENCODER, name="encoder-1", busy_share=0.7),
        "encoder-2": replace(ENCODER, name="encoder-2", unit_seconds=0.0),
    }
    reasoners = {"reasoner-0": replace(REASONER, questions=2.0)}
    found = loads(encoders, reasoners, held(3) + held(1, encoder="encoder-2"))
    assert found["encoder-0"] == pytest.approx(0.3)
    assert found["encoder-1"] == pytest.approx(0.7)
    assert 0 < found["encoder-2"] < 0.1
    assert found["reasoner-0"] == pytest.approx(4 * ENCODER.window_bytes / 1e9 + 0.1)


def test_a_service_with_a_limit_of_its_own_takes_no_more_than_that() -> None:
    assert isinstance(ask(there=held(2), max_streams=3), Admitted)
    refused = ask(there=held(3), max_streams=3)
    assert isinstance(refused, Refused)
    assert refused.reason == "encoder-0 takes 3 streams and has 3"
    assert refused.retry_after_s == pytest.approx(60 / 3)
    assert refused.lacks is Role.ENCODER
    small = replace(REASONER, max_streams=2)
    wish = Held(tenant="default", fps=0.0)
    found = admit(wish, [ENCODER], [small], held(2), now_s=1000.0, life_s=60.0)
    assert isinstance(found, Refused)
    assert found.reason == "reasoner-0 takes 2 streams and has 2"
    assert found.lacks is Role.REASONER, "more encoders would not help"
    other = replace(REASONER, name="reasoner-1")
    elsewhere = admit(wish, [ENCODER], [small, other], held(2), now_s=1000.0, life_s=60.0)
    assert isinstance(elsewhere, Admitted)
    assert elsewhere.reasoner == "reasoner-1"
    assert isinstance(ask(there=held(3, encoder=""), max_streams=3), Admitted), "those that ended need none"
