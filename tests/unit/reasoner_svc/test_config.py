"""Settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder_svc.config import parse_config
from kv_transfer.base import LinkConfig
from reasoner_svc.__main__ import _config, _load, _parser, main
from reasoner_svc.app import link_config
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.retrieve.strategies import STRATEGIES
from reasoner_svc.store.policies.names import POLICIES
from tandem.core.choices import EVICTION, RETRIEVAL
from tandem.core.errors import InvalidInput
from tandem.core.transfer import LaneKind
from tandem.vlm.load import load_model

SECRET = b"sixteen bytes !!"


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        ReasonerConfig(name="no spaces", secret=b"short", ram_bytes=5, view_tokens=-1, threads=-1)
    for part in ("name", "secret", "ram_bytes", "view_tokens", "threads"):
        assert part in raised.value.message


def test_the_names_are_those_that_exist() -> None:
    assert set(RETRIEVAL) == set(STRATEGIES)
    assert set(EVICTION) == set(POLICIES)


def test_a_tick_has_room_for_every_running_question_and_a_chunk() -> None:
    config = ReasonerConfig(name="r", secret=SECRET, max_running=3, prefill_chunk=7)
    assert config.tick_tokens == 10


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--name", "r", "--secret-file", str(tmp_path / "absent")]) == 2
    assert "cannot read the secret file" in capsys.readouterr().err
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    assert main(["--name", "r r", "--secret-file", str(secret), "--ram-bytes", "1"]) == 2
    said = capsys.readouterr().err
    assert "name" in said
    assert "ram_bytes" in said


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "example:" in capsys.readouterr().out


def test_the_pixel_budget_reaches_the_model_as_at_an_encoder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    flags = ["--name", "r", "--secret-file", str(secret), "--model", "dummy:tiny", "--max-pixels", "1568"]
    fingerprint = _load(_config(_parser().parse_args(flags)))[0].fingerprint
    assert fingerprint == load_model("dummy:tiny", max_pixels=1568).fingerprint
    assert fingerprint != load_model("dummy:tiny").fingerprint, "the budget counts"


def test_lanes_can_leave_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    flags = ["--name", "r", "--secret-file", str(secret), "--gloo-host", "10.1.2.3", "--lanes", "gloo"]
    config = _config(_parser().parse_args([*flags, "--advertise", "10.1.2.3:7431"]))
    assert (config.advertise, config.lanes) == ("10.1.2.3:7431", ("gloo",))
    link = link_config(config)
    assert (link.gloo_host, link.lanes) == ("10.1.2.3", (LaneKind.GLOO,))
    assert link_config(ReasonerConfig(name="r", secret=SECRET)) == LinkConfig()


@pytest.mark.parametrize("host", ["", "0.0.0.0", "0", "::", "[::]", "0:0:0:0:0:0:0:0", "*"])
def test_every_interface_is_no_address(host: str) -> None:
    with pytest.raises(InvalidInput, match="gloo_host"):
        ReasonerConfig(name="r", secret=SECRET, gloo_host=host)
    with pytest.raises(InvalidInput, match="--gloo-host"):
        parse_config(["--gloo-host", host])
    with pytest.raises(InvalidInput, match="gloo_host"):
        LinkConfig(gloo_host=host)


def test_bad_lanes_and_addresses_are_named() -> None:
    with pytest.raises(InvalidInput) as raised:
        ReasonerConfig(name="r", secret=SECRET, lanes=("pigeon",), advertise="0.0.0.0:80")
    assert "pigeon" in raised.value.message
    assert "advertise" in raised.value.message
    with pytest.raises(InvalidInput, match="lanes"):
        ReasonerConfig(name="r", secret=SECRET, lanes=())
    with pytest.raises(InvalidInput, match="--advertise"):
        parse_config(["--advertise", "0.0.0.0:80"])
