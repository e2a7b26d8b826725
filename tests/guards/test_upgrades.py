"""The page on upgrades says what is: releases, and the versions that are written and read."""

from __future__ import annotations

import re

import tandem
from encoder_svc import resume
from kv_transfer import header
from kv_transfer.protocol import frames
from orchestrator import access, journal
from reasoner_svc.store.disk import catalogue, format  # noqa: A004
from tandem.core import tickets, transfer
from tandem.core.versions import Spoken
from tandem.vlm import fingerprint
from tandem.wire import accepting
from tests.guards.product import ROOT
from tests.upgrade.recorded import FORMER

TEXT = (ROOT / "docs/upgrades.md").read_text()
VERSIONS = {
    "tandem/wire/accepting.py": (accepting.PROTOCOL_VERSION, accepting.SPOKEN),
    "tandem/core/transfer.py": (transfer.PROTOCOL_MAJOR, transfer.MAJORS),
    "kv_transfer/protocol/frames.py": (frames.VERSION, None),
    "tandem/core/tickets.py": (tickets.VERSION, None),
    "kv_transfer/header.py": (header.VERSION, header.READ),
    "reasoner_svc/store/disk/format.py": (format.VERSION, format.READ),
    "reasoner_svc/store/disk/catalogue.py": (catalogue.VERSION, None),
    "orchestrator/journal.py": (journal.VERSION, journal.READ),
    "encoder_svc/resume.py": (resume.VERSION, None),
    "orchestrator/access.py": (access.VERSION, None),
    "tandem/vlm/fingerprint.py": (fingerprint.LAYOUT_VERSION, None),
}
"""By file: what is written, and what is read; None: that alone."""


def test_versions_are_those_of_the_code() -> None:
    told = {
        name: (writes, reads)
        for writes, reads, name in re.findall(r"\| (\d+) \| (\d+(?: to \d+)?) \| `([\w/.]+)` \|", TEXT)
    }
    assert told == {
        name: (str(writes), str(reads or Spoken(writes, writes)))
        for name, (writes, reads) in VERSIONS.items()
    }


def test_what_is_written_is_read() -> None:
    assert all(writes in reads for writes, reads in VERSIONS.values() if reads is not None)


def test_it_is_about_these_two_releases() -> None:
    assert f"{tandem.__version__} and {FORMER}." in TEXT
    assert f"| {tandem.__version__} | beside {FORMER} |" in TEXT
    other = set(re.findall(r"\b\d+\.\d+\.\d+\b", TEXT)) - {tandem.__version__, FORMER}
    assert not other
