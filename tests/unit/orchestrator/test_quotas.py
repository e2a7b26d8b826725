"""What a tenant may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.capacity import Held
from orchestrator.quotas import (
    Cost,
    Quota,
    Quotas,
    check_question,
    check_stream,
    check_tenant,
    parse_quotas,
    read_quotas,
)
from tandem.core.errors import InvalidInput, LimitExceeded, PermissionRefused

TEXT = """
[default]
streams = 2

[tenants.acme]
weight = 2.5
streams = 20
units_per_second = 40
open_questions = 16
bytes = 2_000_000_000
"""


def test_a_file_says_what_each_tenant_may_have(tmp_path: Path) -> None:
    path = tmp_path / "quotas.toml"
    path.write_text(TEXT)
    quotas = read_quotas(path)
    acme = Quota(weight=2.5, streams=20, units_per_second=40.0, open_questions=16, bytes=2_000_000_000)
    assert quotas.of("acme") == acme
    assert quotas.of("somebody") == Quota(streams=2)
    closed = parse_quotas("[tenants.acme]\nstreams = 1")
    with pytest.raises(PermissionRefused, match="'other' is not in the file"):
        closed.of("other")
    assert Quotas().of("anybody") == Quota()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[default]\nstreams = -1", ["default.streams is -1"]),
        ("[default]\nstreams = 1.5", ["a whole number"]),
        ("[default]\nweight = 0", ["default.weight is 0"]),
        ("[default]\nweight = inf\nbytes = true", ["default.weight is inf", "default.bytes is True"]),
        ("[default]\nspeed = 1\n[tenants.'a b']\nstreams = 1", ["default.speed is not known", "'a b'"]),
        ("[other]\nstreams = 1", ["other: expected [default]"]),
        ("default = 3", ["default is not a table"]),
        ("tenants = 3", ["tenants: expected at most"]),
    ],
)
def test_every_problem_of_a_file_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_quotas(text)
    for word in words:
        assert word in caught.value.message


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        read_quotas(tmp_path / "none.toml")
    for number, data in enumerate((b"[default", b"\xff\xfe", b"#" * (1 << 21))):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(data)
        with pytest.raises(InvalidInput, match=r"is not TOML|larger than"):
            read_quotas(path)


def check(quota: Quota, wish: Cost, count: int, each: Cost) -> None:
    there = [(each, Held(tenant="acme", fps=0.0, opened_s=0.0)) for _ in range(count)]
    check_stream("acme", quota, wish, there, now_s=100.0, life_s=60.0)


@pytest.mark.parametrize(
    ("quota", "fits"),
    [(Quota(streams=3), 2), (Quota(units_per_second=3.0), 2), (Quota(bytes=3000), 2), (Quota(), 50)],
)
def test_one_more_stream_fits_or_is_refused_with_a_time_to_come_again(quota: Quota, fits: int) -> None:
    one = Cost(units_per_second=1.0, bytes=1000)
    check(quota, one, fits, one)
    if quota != Quota():
        with pytest.raises(LimitExceeded, match="tenant acme has 3") as caught:
            check(quota, one, fits + 1, one)
        assert caught.value.retry_after_s == pytest.approx(20.0)


def test_what_never_fits_is_not_told_to_come_again() -> None:
    with pytest.raises(LimitExceeded, match="more than the quota ever allows") as caught:
        check(
            Quota(units_per_second=1.0),
            Cost(units_per_second=2.0, bytes=0),
            0,
            Cost(units_per_second=0, bytes=0),
        )
    assert caught.value.retry_after_s is None


def test_open_questions_are_counted() -> None:
    check_question("acme", Quota(open_questions=3), 2, 4.0)
    check_question("acme", Quota(), 1000, 4.0)
    with pytest.raises(LimitExceeded, match="3 questions of tenant acme are open") as caught:
        check_question("acme", Quota(open_questions=3), 3, 6.0)
    assert caught.value.retry_after_s == pytest.approx(2.0), (
        "one of three ends every third of an answer's time"
    )


def test_names() -> None:
    assert check_tenant("") == "default"
    assert check_tenant("acme") == "acme"
    with pytest.raises(InvalidInput):
        check_tenant("a b")
