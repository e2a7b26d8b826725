"""Tokens: what the file may say, who is let in, and what each sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.access import ANYONE, Caller, caller_of, digest, parse_tokens
from orchestrator.doorkeeper import Doorkeeper
from orchestrator.messages import seen_by
from tandem.cli import main
from tandem.core.errors import InvalidInput, PermissionRefused
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2

TOKEN = "a-token-that-is-long-enough"
GOOD = f'[[token]]\nsha256 = "{digest(TOKEN)}"\ntenant = "acme"\n'


def context(token: str | None, key: str = "authorization") -> Any:
    metadata = () if token is None else (("other", "x"), (key, f"Bearer {token}"))
    return SimpleNamespace(invocation_metadata=lambda: metadata)


def test_a_token_is_for_one_tenant_and_for_what_it_says() -> None:
    caller = caller_of(parse_tokens(GOOD, "file"), f"Bearer {TOKEN}")
    assert (caller.tenant, caller.rights, caller.is_admin) == ("acme", {"watch", "ask"}, False)
    assert caller.sees("acme")
    assert not caller.sees("other")
    assert caller.tenant_for("") == caller.tenant_for("acme") == "acme"
    with pytest.raises(PermissionRefused, match="not of 'other'"):
        caller.tenant_for("other")
    with pytest.raises(PermissionRefused, match="'admin'"):
        caller.must("admin", "draining")


def test_an_administrator_sees_all_and_may_open_for_others() -> None:
    caller = caller_of(parse_tokens(GOOD + 'rights = ["admin"]\n', "file"), f"bearer {TOKEN}")
    caller.must("watch", "watching")
    assert caller.sees("other")
    assert (caller.tenant_for("other"), caller.tenant_for("")) == ("other", "acme")


def test_without_a_file_everybody_is_trusted_as_before() -> None:
    assert caller_of(None, "") is ANYONE
    assert ANYONE.tenant_for("acme") == "acme"
    assert ANYONE.sees("anyone")


@pytest.mark.parametrize(
    "shown",
    ["", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {digest(TOKEN)}", "Bearer " + "x" * 10_000],
)
def test_whatever_else_is_shown_is_refused_without_being_repeated(shown: str) -> None:
    with pytest.raises(PermissionRefused) as refused:
        caller_of(parse_tokens(GOOD, "file"), shown)
    assert TOKEN not in refused.value.message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "0 tokens"),
        ("[[token]", "no TOML"),
        ("token = 1", r"\[\[token\]\]"),
        ("[tokens]\n", r"\[\[token\]\]"),
        ("[[token]]\n", "sha256"),
        (f'[[token]]\nsha256 = "{TOKEN}"', "sha256"),
        (GOOD + GOOD, "that of another"),
        (GOOD + "rights = []", "rights"),
        (GOOD + 'rights = ["root"]', "rights"),
        (GOOD + 'rights = "ask"', "rights"),
        (GOOD + 'right = ["ask"]', "'right' is no field"),
        (GOOD.replace("acme", "a b"), "tenant"),
        (GOOD + "name = 1", "name"),
        (GOOD + f'token = "{TOKEN}"', "'token' is no field"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_its_mistake(text: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refused:
        parse_tokens(text, "tokens.toml")
    assert TOKEN not in refused.value.message.replace(text, "")


def test_a_token_that_is_taken_out_is_soon_good_no_more(tmp_path: Path) -> None:
    now_s, file = [0.0], tmp_path / "tokens.toml"
    file.write_text(GOOD)
    keeper = Doorkeeper(file, lambda: now_s[0])
    assert keeper.caller(context(TOKEN)).tenant == "acme"
    file.write_text("[[tok")
    now_s[0] += 2
    assert keeper.caller(context(TOKEN)).tenant == "acme", "a file that is being written changes nothing"
    file.write_text(GOOD.replace(digest(TOKEN), digest("another-token-of-acme")))
    now_s[0] += 2
    with pytest.raises(PermissionRefused):
        keeper.caller(context(TOKEN))
    assert keeper.caller(context("another-token-of-acme")).tenant == "acme"
    assert not keeper.is_admin(context(None))


def test_the_command_makes_a_token_that_is_let_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t"
    assert (
        main(["token", "--tenant", "acme", "--right", "ask", "--name", 'the "gate"', "--out", str(out)]) == 0
    )
    printed = capsys.readouterr()
    token = out.read_text().strip()
    assert out.stat().st_mode & 0o777 == 0o600
    assert token not in printed.out + printed.err
    caller = caller_of(parse_tokens(printed.out, "printed"), f"Bearer {token}")
    assert caller == Caller(name='the "gate"', tenant="acme", rights=frozenset({"ask"}))
    assert main(["token", "--out", str(out)]) != 0, "an old token is not written over"


def test_how_many_pods_there_should_be_is_for_administrators() -> None:
    status = client_pb2.GetStatusResponse(
        term=7, scaling=[client_pb2.ScalingDecision(role="encoder", pod="demo-encoder-1")]
    )
    tokens = parse_tokens(GOOD, "file")
    assert seen_by(ANYONE, status) == status
    assert seen_by(caller_of(tokens, f"Bearer {TOKEN}"), status) == client_pb2.GetStatusResponse(
        build=types_pb2.BuildInfo()
    )
