"""What a process that decodes could do, were its decoder taken over: nothing but what it is for."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.children import DecoderHost, environment
from encoder_svc.decode.isolated import IsolatedDecoders
from encoder_svc.decode.talk import Garbled, receive
from tests.unit.encoder_svc.test_isolated import child_of, png

HOSTILE = """
import ctypes, os, resource, signal, socket, sys, time
from encoder_svc.decode.worker import allow_cpu, confine

keep, victim, secret = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)

class Piece(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]

def called(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    return "done" if result != -1 and result != 2**64 - 1 else os.strerror(ctypes.get_errno())

mine = ctypes.create_string_buffer(8)
piece = Piece(ctypes.addressof(mine), 8)
tries = {
    "reads the memory of the encoder": lambda: called(
        "process_vm_readv", victim, ctypes.byref(piece), 1, ctypes.byref(piece), 1, 0),
    "writes the memory of the encoder": lambda: called(
        "process_vm_writev", victim, ctypes.byref(piece), 1, ctypes.byref(piece), 1, 0),
    "takes the encoder over": lambda: called("ptrace", 16, victim, 0, 0),
    "ends the encoder": lambda: called("kill", victim, signal.SIGTERM),
    "limits the encoder": lambda: called("prlimit", victim, resource.RLIMIT_NOFILE, mine, None),
    "opens a file": lambda: called("open", secret.encode(), 0),
    "removes a file": lambda: called("unlink", secret.encode()),
    "opens a file to others": lambda: called("chmod", secret.encode(), 0o666),
    "empties a file": lambda: called("truncate", secret.encode(), ctypes.c_long(0)),
    "makes a directory": lambda: called("mkdir", secret.encode() + b".d", 0o700),
    "opens a socket": lambda: called("socket", socket.AF_INET, socket.SOCK_STREAM, 0),
    "starts a process": lambda: called("fork"),
    "becomes another program": lambda: called("execve", b"/bin/true", None, None),
    "joins shared memory": lambda: called("shmget", 0, ctypes.c_size_t(4096), 0o1600),
    "uses what the host had open": lambda: called("write", keep + 1, b"x", ctypes.c_size_t(1)),
}
os.dup2(1, keep + 1)
at = socket.socket(fileno=keep)
held = confine(64 << 20, keep)
at.sendall(f"held {held}\\n".encode())
allow_cpu(5)
for what, attempt in tries.items():
    at.sendall(f"{what}: {attempt()}\\n".encode())
os.write(1, b"a line for the log")
at.sendall(b"end\\n")
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    secret = tmp_path_factory.mktemp("hostile") / "secret"
    secret.write_text("the cluster secret")
    here, there = socket.socketpair()
    victim = subprocess.Popen(["sleep", "60"])
    with here, there:
        line = [sys.executable, "-c", HOSTILE, str(there.fileno()), str(victim.pid), str(secret)]
        try:
            done = subprocess.run(
                line, pass_fds=[there.fileno()], capture_output=True, timeout=60, check=True
            )
            there.close()
            text = b"".join(iter(lambda: here.recv(1 << 16), b"")).decode()
            assert victim.poll() is None
        finally:
            victim.kill()
            victim.wait()
    assert done.stdout == b"", "what it prints is nobody's log"
    assert secret.read_text() == "the cluster secret"
    assert text.endswith("end\n")
    return dict(line.split(": ") for line in text.splitlines() if ": " in line) | {
        "held": str("held True" in text)
    }


def test_nothing_but_its_work_is_let_through(told: dict[str, str]) -> None:
    if told.pop("held") != "True":
        pytest.skip("this kernel has no seccomp filters")
    refused = {"Operation not permitted"}
    assert {what: why for what, why in told.items() if why not in refused} == {
        "uses what the host had open": "Bad file descriptor"
    }


def test_secrets_of_the_environment_do_not_come_along() -> None:
    own = {
        "PATH": "/bin",
        "PYTHONPATH": "/work",
        "HF_TOKEN": "hf_secret",
        "OTEL_HEADERS": "key",
    }
    assert environment(own).keys() & own.keys() == {"PATH", "PYTHONPATH"}


def test_it_is_the_first_to_go_and_has_its_socket_alone() -> None:
    host = DecoderHost(MediaLimits(), memory_bytes=64 << 20, cpu_s=5)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_TOKEN", "hf_secret")
            first, second = IsolatedDecoders(host), IsolatedDecoders(host)
            first.picture(png(), MediaLimits())
            second.picture(png(), MediaLimits())
        at = Path(f"/proc/{child_of(second).pid}")
        assert (at / "oom_score_adj").read_text().strip() == "1000"
        opened = sorted(os.readlink(entry).split(":")[0] for entry in (at / "fd").iterdir())
        assert opened == ["/dev/null"] * 3 + ["socket"]
        assert b"hf_secret" not in (at / "environ").read_bytes()
    finally:
        host.close()


@given(st.binary(max_size=200), st.integers(0, 100))
def test_what_one_that_was_taken_over_says_is_read_or_refused(data: bytes, most: int) -> None:
    for said in (data, struct.pack("<II", len(data), 0) + data):
        here, there = socket.socketpair()
        with here, there:
            there.sendall(said)
            there.shutdown(socket.SHUT_WR)
            with contextlib.suppress(Garbled):
                answer = receive(here, most, 1.0)
                assert answer is None or (isinstance(answer[0], list) and len(answer[1]) <= most)
