"""Where a stream goes, and why."""

from orchestrator.membership import Identity, Member, Role, Standing
from orchestrator.placement import NotPlaced, Placed, place, reason_to_move


def member(name: str, fingerprint: str = "f", standing: Standing = Standing.READY) -> Member:
    role = Role(name.rpartition("-")[0])
    identity = Identity(name=name, role=role, address="a:1", boot_id=name, fingerprint=fingerprint)
    return Member(identity=identity, standing=standing, seen_s=0.0)


def names(placed: Placed | NotPlaced) -> tuple[str, str]:
    assert isinstance(placed, Placed), placed
    return placed.encoder.name, placed.reasoner.name


FOUR = [member("encoder-0"), member("encoder-1"), member("reasoner-0"), member("reasoner-1")]


def test_the_least_load_wins_and_ties_go_by_name() -> None:
    assert names(place(FOUR, {})) == ("encoder-0", "reasoner-0")
    assert names(place(FOUR, {"encoder-0": 0.4, "encoder-1": 0.2, "reasoner-0": 0.9})) == (
        "encoder-1",
        "reasoner-1",
    )
    assert names(place(FOUR, {"encoder-0": 0.21, "encoder-1": 0.2})) == ("encoder-0", "reasoner-0"), "noise"


def test_a_stream_stays_where_its_blocks_are() -> None:
    placed = place(FOUR, {"reasoner-1": 9, "encoder-1": 9}, encoder="encoder-1", reasoner="reasoner-1")
    assert names(placed) == ("encoder-1", "reasoner-1")
    assert isinstance(placed, Placed)
    assert placed.reason == "its blocks are there"
    new = place(FOUR, {}, encoder="encoder-1", reasoner="reasoner-1", has_blocks=False)
    assert isinstance(new, Placed)
    assert (names(new), new.reason) == (("encoder-1", "reasoner-1"), "it was let in there")


def test_models_must_agree() -> None:
    mixed = [member("encoder-0", "aaaa"), member("reasoner-0", "bbbb"), member("reasoner-1", "aaaa")]
    assert names(place(mixed, {}, reasoner="reasoner-0")) == ("encoder-0", "reasoner-1")
    refused = place(mixed[:2], {})
    assert refused == NotPlaced("models differ: encoders have aaaa, reasoners have bbbb", hopeless=True)


def test_different_models_are_hopeless_only_when_nothing_that_fits_can_come() -> None:
    mixed = [member("encoder-0", "aaaa"), member("reasoner-0", "bbbb")]
    for others, more_come, hopeless in (
        ([], False, True),
        ([], True, False),
        ([member("reasoner-1", "aaaa", Standing.LOST)], False, False),
        ([member("reasoner-1", "cccc", Standing.LOST)], False, True),
        ([member("reasoner-1", "aaaa", Standing.DRAINING)], False, True),
    ):
        found = place([*mixed, *others], {}, more_come=more_come)
        assert isinstance(found, NotPlaced)
        assert found.hopeless is hopeless, others
    only = place(mixed[:1], {})
    assert only == NotPlaced("no reasoner is ready")


def test_what_is_missing_is_named() -> None:
    assert place([], {}) == NotPlaced("no encoder and no reasoner is ready")
    lost = [member("encoder-0"), member("reasoner-0", standing=Standing.LOST)]
    assert place(lost, {}) == NotPlaced("no reasoner is ready")


def test_a_stream_leaves_what_drains_once_another_can_take_it() -> None:
    def why(leaving: str, *present: str, other: str = "f") -> str | None:
        known = [
            member(
                name,
                other if name.endswith("-1") else "f",
                Standing.DRAINING if name in leaving.split() else Standing.READY,
            )
            for name in ("encoder-0", "reasoner-0", *present)
        ]
        candidate = place(known, {}, encoder="encoder-0", reasoner="reasoner-0")
        return reason_to_move(known, known[0].identity, known[1].identity, candidate)

    everybody = ("encoder-1", "reasoner-1")
    assert why("", *everybody) is None
    assert why("encoder-0", *everybody) == "encoder-0 leaves"
    assert why("encoder-0 reasoner-0", *everybody) == "encoder-0 and reasoner-0 leave"
    assert why("encoder-0", "reasoner-1") is None, "there is no other encoder"
    assert why("reasoner-0", "encoder-1") is None, "there is no other reasoner"
    assert why("reasoner-0", *everybody, other="g") is None, "its blocks mean nothing to another model"
    assert why("encoder-0", *everybody, other="g") is None, "it would leave its blocks behind"


def test_a_stream_that_needs_no_encoder_does_not_leave_for_its_sake() -> None:
    known = [member("encoder-0", standing=Standing.DRAINING), *FOUR[1:]]
    candidate = place(known, {}, reasoner="reasoner-0")
    assert reason_to_move(known, None, FOUR[2].identity, candidate) is None
