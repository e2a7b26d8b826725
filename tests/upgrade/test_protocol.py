"""Messages of the former release and of the present one, each as the other reads it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

import tandem
from tests.guards.product import ROOT
from tests.upgrade import recorded
from tests.upgrade.protocol import FileSet, Reader, added, as_json, broken, messages
from tests.upgrade.record import descriptors

PRESENT = tandem.__version__


def test_the_protocol_of_the_former_release_is_kept() -> None:
    assert broken(recorded.protocol(), descriptors()) == []


def test_what_is_added_is_told_with_what_a_former_peer_makes_of_it() -> None:
    text = (ROOT / "docs/upgrades.md").read_text()
    told = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    assert told == {name.removeprefix("tandem.v1.") for name in added(recorded.protocol(), descriptors())}


@pytest.mark.parametrize("said", recorded.said(), ids=lambda said: said.message.removeprefix("tandem.v1."))
def test_what_the_former_release_said_is_read_to_the_last_field(said: recorded.Said) -> None:
    theirs = Reader(recorded.protocol()).read(said.message, said.data)
    ours = Reader(descriptors()).read(said.message, said.data)
    assert as_json(ours) == as_json(theirs)
    ours.DiscardUnknownFields()
    assert ours.SerializeToString(deterministic=True) == said.data


@pytest.mark.parametrize(
    "said", recorded.said(PRESENT), ids=lambda said: said.message.removeprefix("tandem.v1.")
)
def test_what_this_release_says_is_read_by_the_former_but_for_what_it_does_not_know(
    said: recorded.Said,
) -> None:
    theirs = Reader(recorded.protocol()).read(said.message, said.data)
    ours = Reader(descriptors()).read(said.message, said.data)
    new = {name.rpartition(".")[2] for name in added(recorded.protocol(), descriptors())}
    assert without(as_json(ours), new) == without(as_json(theirs), new)


def test_calls_of_both_releases_were_recorded() -> None:
    former, present = (
        {(s.method, s.sender) for s in recorded.said(each)} for each in (recorded.FORMER, PRESENT)
    )
    assert former <= present
    spoken = {
        f"/tandem.v1.{service.name}/{method.name}"
        for file in descriptors().file
        for service in file.service
        for method in service.method
    }
    assert {method for method, _ in present} == spoken


def without(value: object, names: set[str]) -> object:
    """A message as JSON without these fields, at any depth."""
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


Break = Callable[[FileSet], None]


def message(protocol: FileSet, name: str) -> descriptor_pb2.DescriptorProto:
    """One of its messages, to be changed."""
    (found,) = (m for file in protocol.file for full, m in messages(file) if full == f"tandem.v1.{name}")
    return found


def drop(protocol: FileSet) -> None:
    del message(protocol, "AttachRequest.Hello").field[0]


def retype(protocol: FileSet) -> None:
    message(protocol, "AttachRequest.Hello").field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES


def renumber(protocol: FileSet) -> None:
    message(protocol, "Hello").field[0].number = 77


def rename(protocol: FileSet) -> None:
    message(protocol, "Hello").field[0].name = "else"


def leave_oneof(protocol: FileSet) -> None:
    message(protocol, "AttachRequest").field[0].ClearField("oneof_index")


def drop_message(protocol: FileSet) -> None:
    del protocol.file[0].message_type[0]


def renumber_value(protocol: FileSet) -> None:
    protocol.file[0].enum_type[0].value[1].number = 77


def stream_no_more(protocol: FileSet) -> None:
    (attach,) = (m for f in protocol.file for s in f.service for m in s.method if m.name == "Attach")
    attach.client_streaming = False


@pytest.mark.parametrize(
    "change", [drop, retype, renumber, rename, leave_oneof, drop_message, renumber_value, stream_no_more]
)
def test_what_breaks_a_protocol_is_seen(change: Break) -> None:
    changed = FileSet()
    changed.CopyFrom(recorded.protocol())
    change(changed)
    assert broken(recorded.protocol(), changed)


def test_a_field_may_go_when_its_number_and_name_are_reserved() -> None:
    changed = FileSet()
    changed.CopyFrom(recorded.protocol())
    hello = message(changed, "Hello")
    gone = hello.field[1]
    hello.reserved_name.append(gone.name)
    hello.reserved_range.add(start=gone.number, end=gone.number + 1)
    del hello.field[1]
    assert broken(recorded.protocol(), changed) == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_was_recorded_of_this_release_is_what_it_says(tmp_path: Path) -> None:
    """Before a release: where it fails, `python -m tests.upgrade.record` makes the files anew."""
    line = [sys.executable, "-m", "tests.upgrade.record", str(tmp_path / "anew")]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=150)
    assert FileSet.FromString((tmp_path / "anew/protocol.binpb").read_bytes()) == recorded.protocol(PRESENT)
    anew = {
        (each["method"], each["sender"], each["message"])
        for each in map(json.loads, (tmp_path / "anew/messages.jsonl").read_text().splitlines())
    }
    assert anew == {(each.method, each.sender, each.message) for each in recorded.said(PRESENT)}
    for name in ("journal.json", "ticket.bin", "stored/catalogue.sqlite", "stored/00000002.tkv"):
        assert (tmp_path / "anew" / name).exists()
