"""What a service and an orchestrator agree on, whichever of them is the older one."""

from __future__ import annotations

import pytest

from tandem import __version__
from tandem.core.errors import Incompatible, InvalidInput, PermissionRefused
from tandem.core.versions import Spoken
from tandem.wire.accepting import SPOKEN, accept, accepted_proof, check_accepted
from tandem.wire.gen.tandem.v1 import registry_pb2, types_pb2

SECRET = b"a secret of a cluster"
Hello = registry_pb2.AttachRequest.Hello
Accepted = registry_pb2.AttachResponse.Accepted


def hello(lowest: int = SPOKEN.lowest, newest: int = SPOKEN.newest, nonce: str = "n") -> Hello:
    build = types_pb2.BuildInfo(version="9.9.9", boot_id="boot")
    return Hello(name="encoder-0", build=build, protocol=lowest, newest_protocol=newest, nonce=nonce)


def test_with_a_service_of_before_ranges_its_version_is_spoken() -> None:
    assert accept(hello(1, 0)) == 1
    assert accept(hello()) == SPOKEN.newest


def test_a_service_that_is_too_new_or_too_old_is_told_both_versions_and_what_to_do() -> None:
    with pytest.raises(
        Incompatible, match=rf"encoder-0 \(9\.9\.9\) .* 7 to 8, .* \({__version__}\) .* 1 to 2"
    ):
        accept(hello(7, 8))
    with pytest.raises(Incompatible, match=r"upgrade encoder-0 \(9\.9\.9\), one release at a time"):
        accept(hello(1, 0), Spoken(2, 3))
    with pytest.raises(InvalidInput):
        accept(hello(nonce="n" * 65))


def test_an_orchestrator_of_before_proofs_is_believed_and_a_newer_one_must_show_it() -> None:
    said = hello()
    assert check_accepted(Accepted(heartbeat_ms=1), SECRET, said) == 1
    good = Accepted(protocol=2, proof=accepted_proof(SECRET, said, 2))
    assert check_accepted(good, SECRET, said) == 2
    for proof in (
        "",
        accepted_proof(b"another secret...", said, 2),
        accepted_proof(SECRET, hello(nonce="m"), 2),
    ):
        with pytest.raises(PermissionRefused, match="does not know the cluster secret"):
            check_accepted(Accepted(protocol=2, proof=proof), SECRET, said)


def test_a_version_that_was_not_offered_is_not_spoken() -> None:
    build = types_pb2.BuildInfo(version="9.9.9")
    with pytest.raises(Incompatible, match=r"\(9\.9\.9\) chose 3"):
        check_accepted(Accepted(protocol=3, build=build), SECRET, hello())
    with pytest.raises(Incompatible, match=r"\(0\.1\.0\) chose 1"):
        check_accepted(Accepted(), SECRET, hello(), Spoken(2, 3))
