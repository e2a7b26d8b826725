"""Names of streams and their ids: each tenant's own, of a length that services take, and found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.access import Caller
from orchestrator.journal import Journal
from orchestrator.naming import check_name, id_of, id_to_resume
from orchestrator.terms import DEFAULT_TENANT
from orchestrator.tokens import make_nonce, resume_token
from tandem.core.errors import InvalidInput, NotFound, PermissionRefused
from tandem.core.ids import StreamId, is_stream_id, may_have_notes
from tests.unit.orchestrator.test_streams import CAM, SECRET, make, open_of, record_of

IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
ACME = Caller(name="", tenant="acme", rights=frozenset({"watch", "ask"}))
OTHER = replace(ACME, tenant="other")


@given(IDS, IDS, IDS, IDS)
def test_ids_are_different_where_tenants_or_names_are(
    tenant: str, name: str, other_tenant: str, other_name: str
) -> None:
    one, another = id_of(tenant, name), id_of(other_tenant, other_name)
    assert (one == another) == ((tenant, name) == (other_tenant, other_name))
    if tenant != DEFAULT_TENANT:
        assert is_stream_id(one)
        assert may_have_notes(one)
        with pytest.raises(InvalidInput):
            check_name(one)
    else:
        assert one == name


def test_a_token_says_which_stream_is_meant() -> None:
    ids = {"own": id_of("acme", "cam"), "former": StreamId("cam"), "named": StreamId("elsewhere")}
    for stream_id in ids.values():
        token = resume_token(SECRET, stream_id, make_nonce())
        assert id_to_resume(SECRET, "acme", "cam", token, [ids["named"]]) == stream_id
    foreign = resume_token(SECRET, id_of("other", "cam"), make_nonce())
    for token in (foreign, "", "x.y", "é"):
        with pytest.raises(PermissionRefused, match="does not belong to stream cam"):
            id_to_resume(SECRET, "acme", "cam", token, ids.values())


async def test_a_stream_is_called_the_same_by_the_next_orchestrator(tmp_path: Path) -> None:
    first = make(tmp_path)
    opening = open_of()
    opening.tenant = "acme"
    session = first.open(opening, ACME).session
    token, held_as = resume_token(SECRET, session.stream_id, session.nonce), session.stream_id
    session.epoch = 1
    await first.close()
    (record,) = Journal(tmp_path).named("cam")
    assert (record.stream_id, record.tenant) == (held_as, "acme")
    second = make(tmp_path)
    again = open_of(token)
    again.tenant = "other"
    with pytest.raises(PermissionRefused):
        second.open(again, OTHER)
    again.tenant = "acme"
    resumed = second.open(again, ACME).session
    assert (resumed.stream_id, resumed.name, resumed.nonce) == (held_as, "cam", session.nonce)
    assert second.get("cam", ACME).session is resumed
    with pytest.raises(NotFound):
        second.get("cam", OTHER)
    await second.close()


async def test_a_tenants_stream_of_a_former_release_goes_on(tmp_path: Path) -> None:
    """There the id was the name, whoever's it was."""
    nonce = make_nonce()
    Journal(tmp_path).save(replace(record_of(nonce), tenant="acme"))
    streams = make(tmp_path)
    again = open_of(resume_token(SECRET, CAM, nonce))
    again.tenant = "other"
    with pytest.raises(PermissionRefused):
        streams.open(again, OTHER)
    again.tenant = "acme"
    resumed = streams.open(again, ACME).session
    assert (resumed.stream_id, resumed.name, resumed.nonce) == (CAM, "cam", nonce)
    assert streams.get("cam", ACME).session is resumed
    await streams.close()
