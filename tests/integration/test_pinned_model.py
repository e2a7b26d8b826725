"""A model of a hub is loaded at the commit that was named, by both services, and at no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from encoder_svc.config import parse_config
from encoder_svc.loading import load
from reasoner_svc import __main__ as reasoner
from tandem.core.errors import Incompatible, Unavailable
from tandem.vlm.checkpoint import find_folder

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
NAME = "acme/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was fetched from a hub that cannot be reached: one commit, and no word of which is the newest."""
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(find_folder("default", None))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_both_services_load_the_commit_that_was_named(hub: Path) -> None:
    words = [f"--model={NAME}", f"--revision={COMMIT}", "--embedder=pooled"]
    loaded = load(parse_config(words))
    secret = hub / "secret"
    secret.write_text("s" * 32)
    parsed = reasoner._parser().parse_args([*words, "--name=r", f"--secret-file={secret}"])
    model, embedder = reasoner._load(reasoner._config(parsed))
    assert model.fingerprint == loaded.model.fingerprint
    assert embedder is not None
    assert loaded.embedder is not None
    assert embedder.fingerprint == loaded.embedder.fingerprint


@pytest.mark.parametrize("revision", ["", OTHER])
def test_another_commit_is_not_taken_for_it(hub: Path, revision: str) -> None:
    with pytest.raises(Unavailable, match=NAME):
        load(parse_config([f"--model={NAME}", f"--revision={revision}"]))


def test_an_embedder_has_a_revision_of_its_own(hub: Path) -> None:
    """The checkpoint is none of an embedder, which is said only once it was found."""
    words = ["--model=default", f"--embedder={NAME}"]
    with pytest.raises(Unavailable, match=NAME):
        load(parse_config([*words, f"--embedder-revision={OTHER}"]))
    with pytest.raises(Incompatible):
        load(parse_config([*words, f"--embedder-revision={COMMIT}"]))


def test_a_token_of_the_hub_is_read_from_a_file(tmp_path: Path) -> None:
    """As the chart hands it over: not in the environment, which decoding processes have, too."""
    (tmp_path / "token").write_text("hf_secret\n")
    environment = {"HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HOME": str(tmp_path / "home")}
    line = [sys.executable, "-c", "from huggingface_hub import get_token; print(get_token())"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "hf_secret\n"
