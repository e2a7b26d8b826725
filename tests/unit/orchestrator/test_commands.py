"""The command lines, their mistakes, and the children of the local backend."""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from encoder_svc.config import parse_config as encoder_config
from orchestrator import __main__ as entry
from orchestrator import up
from orchestrator.arguments import add_arguments, to_config
from orchestrator.backends.base import Wanted
from orchestrator.backends.local import Child, LocalBackend, command, port_after
from orchestrator.backends.remedies import explain
from orchestrator.config import OrchestratorConfig, ServiceSettings
from orchestrator.membership import Role
from orchestrator.memory import Memory, flags
from orchestrator.thinking import Thinking
from orchestrator.thinking import flags as thinking_flags
from reasoner_svc.__main__ import _config as reasoner_config
from reasoner_svc.__main__ import _parser as reasoner_parser
from tandem.core.errors import InvalidInput


def parse(*line: str) -> OrchestratorConfig:
    parser = argparse.ArgumentParser()
    add_arguments(parser, encoders=1, reasoners=1)
    return to_config(parser.parse_args(line))


def test_defaults_are_valid_and_the_run_directory_follows_the_port() -> None:
    config = parse()
    assert (config.listen, config.encoders, config.reasoners) == ("127.0.0.1:7420", 1, 1)
    assert config.run_dir.name == "7420"
    assert parse("--listen", "127.0.0.1:99").run_dir.name == "99"


def test_quotas_come_from_a_file_and_a_bad_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quotas.toml"
    path.write_text("[tenants.acme]\nstreams = 3\n")
    assert parse("--quotas", str(path)).quotas.of("acme").streams == 3
    path.write_text("[tenants.acme]\nstreams = 'three'\n")
    with pytest.raises(InvalidInput, match=r"tenants\.acme\.streams is 'three'"):
        parse("--quotas", str(path))


def test_a_signal_ends_the_wait_for_the_next_start(tmp_path: Path) -> None:
    keeper = up._Keeper(parse("--run-dir", str(tmp_path)), [])
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))

    def stop(*_: object) -> None:
        keeper._stopping = True

    former = signal.signal(signal.SIGUSR1, stop)
    began_s = time.monotonic()
    try:
        timer.start()
        keeper._sleep(20.0)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, former)
    assert time.monotonic() - began_s < 10


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse("--listen", "nowhere", "--encoders", "-1", "--ram-bytes", "5", "--backlog-seconds", "nan")
    text = caught.value.message
    assert len(text.splitlines()) == 4
    for name in ("listen", "encoders", "--ram-bytes", "backlog_seconds"):
        assert name in text


def test_what_ray_does_not_do_is_said_and_metrics_there_need_no_ports_in_a_row() -> None:
    with pytest.raises(InvalidInput, match="--standby is for --backend local"):
        parse("--backend", "ray", "--standby")
    assert parse("--standby").standby
    assert parse("--backend", "ray", "--metrics", "127.0.0.1:65535").services.metrics
    with pytest.raises(InvalidInput, match="leaves no ports"):
        parse("--metrics", "127.0.0.1:65535")


def test_a_network_address_needs_to_be_meant() -> None:
    with pytest.raises(InvalidInput, match="--insecure"):
        parse("--listen", "192.0.2.1:7420")
    assert parse("--listen", "192.0.2.1:7420", "--insecure-network").insecure_network
    assert parse("--listen", "192.0.2.1:7420", "--insecure").insecure_network
    assert parse("--listen", "192.0.2.1:7420", "--tokens", "t.toml").tokens == Path("t.toml")
    tls = ["--tls-cert", "c", "--tls-key", "k"]
    assert parse("--listen", "192.0.2.1:7420", *tls, "--tls-ca", "a").services.tls.is_mutual
    for too_little in (tls, [*tls, "--tls-ca", "a", "--tls-any-caller"]):
        with pytest.raises(InvalidInput, match="--tokens"):
            parse("--listen", "192.0.2.1:7420", *too_little)
    with pytest.raises(InvalidInput, match="pair"):
        parse("--tls-cert", "c")
    with pytest.raises(InvalidInput, match="every interface"):
        parse("--health", "0.0.0.0:7440")
    with pytest.raises(InvalidInput, match="every interface"):
        parse("--listen", "0.0.0.0:7420", "--insecure-network")


def test_mistakes_exit_with_2_and_say_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert up.main(["--encoders", "0"]) == 2
    assert "at least one encoder" in capsys.readouterr().err
    assert up.main(["--ram-bytes", "1", "--listen", "x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert up.main(["--encoders", "0", "--log-format", "json"]) == 2
    assert "at least one encoder" in json.loads(capsys.readouterr().err)["message"]
    assert entry.main(["--run-dir", str(tmp_path), "--listen", "192.0.2.1:1"]) == 2
    (tmp_path / "file").touch()
    assert entry.main(["--run-dir", str(tmp_path / "file"), "--listen", "127.0.0.1:0"]) == 2


def test_command_lines_of_the_services() -> None:
    settings = ServiceSettings(model="m", revision="main", device="cuda:0", dtype="bfloat16", threads=2)
    assert parse("--revision", "main").services.revision == "main"
    line = command(Wanted("reasoner-0", Role.REASONER), "127.0.0.1:1", Path("secret"), settings)
    assert line[:4] == [sys.executable, "-m", "reasoner_svc", "--die-with-parent"]
    for pair in (
        ["--name", "reasoner-0"],
        ["--revision", "main"],
        ["--dtype", "bfloat16"],
        ["--threads", "2"],
    ):
        at = line.index(pair[0])
        assert line[at : at + 2] == pair


@pytest.mark.parametrize("count", [8, 256, 1000])
def test_a_service_can_hold_all_the_streams_that_are_let_in(tmp_path: Path, count: int) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0" * 64)
    secret.chmod(0o600)
    settings = parse("--max-streams", str(count)).services
    encoder = encoder_config(command(Wanted("encoder-0", Role.ENCODER), "127.0.0.1:1", secret, settings)[3:])
    line = command(Wanted("reasoner-0", Role.REASONER), "127.0.0.1:1", secret, settings)[3:]
    reasoner = reasoner_config(reasoner_parser().parse_args(line))
    assert encoder.max_streams == reasoner.max_streams
    assert reasoner.max_streams >= 2 * count, "those that move, that ended just now, that are waited for"


def test_the_memory_options_reach_every_reasoner_as_it_parses_them(tmp_path: Path) -> None:
    given = {
        "ram_bytes": 2 << 20,
        "eviction": "importance",
        "data_dir": str(tmp_path / "blocks"),
        "disk_bytes": 1 << 30,
        "stream_disk_bytes": 1 << 29,
        "keep_hours": 2.5,
        "fsync_seconds": -1.0,
        "view_tokens": 9,
        "retrieval": "external",
        "other_retrieval": ("rekv", "recent"),
        "notes_tokens": 77,
        "retrieve_blocks": 7,
        "pool_bytes": 1 << 20,
        "embedder": "pooled",
        "block_codec": "int8",
    }
    words = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}
    memory = parse(*(f"--{name.replace('_', '-')}={value}" for name, value in words.items())).services.memory
    assert memory == Memory(**given)
    assert set(given) == set(Memory.__dataclass_fields__)
    settings = ServiceSettings(memory=memory)
    for wanted in (Wanted("reasoner-0", Role.REASONER), Wanted("reasoner-1", Role.REASONER)):
        line = command(wanted, "127.0.0.1:1", Path("secret"), settings)
        parsed = vars(reasoner_parser().parse_args(line[3:]))
        assert {name: parsed.get(name) for name in words} == {**words, "block_codec": None}
    encoder = command(Wanted("encoder-0", Role.ENCODER), "a:1", Path("s"), settings)
    for flag, value in (("--embedder", "pooled"), ("--block-codec", "int8")):
        assert encoder[encoder.index(flag) + 1] == value
    assert not any("--data-dir" in word or "--ram-bytes" in word for word in encoder)


async def test_how_it_is_watched_reaches_every_service(tmp_path: Path) -> None:
    assert parse().metrics == ""
    assert parse("--metrics").metrics == "127.0.0.1:7421"
    config = parse("--metrics", "127.0.0.1:9100", "--log-format", "json", "--trace-frames", "3")
    assert (config.metrics, config.log_format, config.trace_frames_s) == ("127.0.0.1:9100", "json", 3.0)
    backend = LocalBackend(
        encoders=1,
        reasoners=2,
        settings=config.services,
        secret_file=tmp_path / "secret",
        log_dir=tmp_path,
        say=lambda text: None,
    )
    await backend.start("127.0.0.1:1")
    lines = {name: child._line for name, child in backend._children.items()}
    await backend.stop()
    ports = {name: line[line.index("--metrics") + 1] for name, line in lines.items()}
    assert ports == {
        "reasoner-0": "127.0.0.1:9101",
        "reasoner-1": "127.0.0.1:9102",
        "encoder-0": "127.0.0.1:9103",
    }
    assert encoder_config(lines["encoder-0"][4:]).log_format == "json"
    parsed = reasoner_parser().parse_args(lines["reasoner-0"][3:])
    assert (parsed.metrics, parsed.log_format) == ("127.0.0.1:9101", "json")
    assert (port_after("", 1), port_after("[::1]:0", 2)) == ("", "[::1]:0")
    for wrong in ("0.0.0.0:1", "7421", "127.0.0.1:65534"):
        with pytest.raises(InvalidInput, match="--metrics"):
            parse("--metrics", wrong)
    with pytest.raises(InvalidInput, match="--trace-frames"):
        parse("--trace-frames", "nan")


def test_what_workers_may_do_reaches_every_reasoner(tmp_path: Path) -> None:
    path = tmp_path / "prompts.toml"
    with pytest.raises(InvalidInput, match=r"--worker-templates .*no such file"):
        parse(f"--worker-templates={path}")
    with pytest.raises(InvalidInput, match="--max-workers is 0"):
        parse("--max-workers=0")
    for option in ("--difficulty-probe", "--head-scores"):
        with pytest.raises(InvalidInput, match=f"{option} .*no such file"):
            parse(f"{option}={path}")
    path.write_text("")
    options = ["--max-workers=3", f"--worker-templates={path}", "--worker-template=plain"]
    options += [f"--difficulty-probe={path}", f"--head-scores={path}"]
    settings = parse(*options).services
    line = command(Wanted("reasoner-0", Role.REASONER), "127.0.0.1:1", Path("secret"), settings)
    assert line[-5:] == options
    parsed = reasoner_parser().parse_args(line[3:])
    assert (parsed.max_workers, parsed.worker_templates, parsed.worker_template) == (3, str(path), "plain")
    assert parsed.difficulty_probe == parsed.head_scores == str(path)
    own = vars(reasoner_parser().parse_args(["--name", "x", "--secret-file", "s"]))
    handed_on = reasoner_parser().parse_args(
        ["--name", "x", "--secret-file", "s", *thinking_flags(Thinking())]
    )
    assert vars(handed_on) == own


def test_memory_options_are_those_of_a_reasoner_when_none_is_given() -> None:
    own = vars(reasoner_parser().parse_args(["--name", "x", "--secret-file", "s"]))
    handed_on = vars(reasoner_parser().parse_args(["--name", "x", "--secret-file", "s", *flags(Memory())]))
    assert handed_on == own


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--keep-hours", "3"], ["--keep-hours", "give --data-dir too"]),
        (["--disk-bytes", "1"], ["--disk-bytes", "at least 65536"]),
        (["--retrieval", "rekw"], ["--retrieval 'rekw'", "give one of rekv, rekv_cosine"]),
        (["--other-retrieval", "recent,all"], ["--other-retrieval all", "rekv"]),
        (["--eviction", "newest"], ["--eviction 'newest'", "oldest-first"]),
        (["--retrieve-blocks", "-2"], ["--retrieve-blocks is -2", "at least -1"]),
        (["--fsync-seconds", "nan", "--data-dir", "x"], ["--fsync-seconds is nan"]),
        (["--retrieval", "external", "--embedder", "off"], ["--embedder off"]),
        (["--block-codec", "zip"], ["--block-codec 'zip'", "raw, float16"]),
        (["--data-dir", __file__], ["--data-dir", "not a folder"]),
        (["--data-dir", f"{__file__}/below"], ["--data-dir", "not a folder"]),
    ],
)
def test_a_mistake_about_memory_names_the_option_and_what_to_do(line: list[str], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(*line)
    for word in words:
        assert word in caught.value.message


def test_remedies_are_given_where_known() -> None:
    text = explain("encoder-0", ["ModuleNotFoundError: No module named 'torch'"], Path("x.log"))
    assert "pip install" in text
    assert "x.log" in text
    assert "may help" not in explain("encoder-0", ["strange"], Path("x.log"))


class Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)

    async def until(self, part: str) -> None:
        async with asyncio.timeout(20):
            while not any(part in text for text in self):  # noqa: ASYNC110 - output has no event
                await asyncio.sleep(0.02)


def child_of(script: str, tmp_path: Path) -> tuple[Child, Said]:
    said = Said()
    wanted = Wanted("encoder-0", Role.ENCODER)
    return Child(wanted, [sys.executable, "-c", script], tmp_path / "encoder-0.log", said), said


async def test_a_child_that_fails_is_started_again_and_its_last_words_are_shown(tmp_path: Path) -> None:
    child, said = child_of("print('No space left on device'); raise SystemExit(3)", tmp_path)
    task = asyncio.create_task(child.run())
    await said.until("exit status 3")
    await said.until("free some space")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sum("starting encoder-0" in text for text in said) >= 1


async def test_a_frozen_child_is_replaced_and_a_stubborn_one_is_killed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.backends.process.STOP_GRACE_S", 0.3)
    script = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    child, said = child_of(script, tmp_path)
    task = asyncio.create_task(child.run())
    first = await pid_of(child, tmp_path, 1)
    os.kill(first, signal.SIGSTOP)
    child.kill("silent for 3 s")
    await said.until("SIGKILL): silent for 3 s")
    second = await pid_of(child, tmp_path, 2)
    assert second != first
    began_s = time.monotonic()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert time.monotonic() - began_s < 5
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


async def pid_of(child: Child, tmp_path: Path, starts: int) -> int:
    log = tmp_path / "encoder-0.log"
    async with asyncio.timeout(20):
        while not log.exists() or log.read_text().count("up\n") < starts:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
    assert child.pid is not None
    return child.pid


UP_WITH_LITTLE_PATIENCE = """
import sys
from orchestrator import up
up.STOP_GRACE_S = 1.0
sys.exit(up.main(["--listen", "127.0.0.1:0", "--run-dir", sys.argv[1]]))
"""


def test_an_orchestrator_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    line = [sys.executable, "-c", UP_WITH_LITTLE_PATIENCE, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        assert any("listening on" in text for text in keeper.stdout)
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGSTOP)
        keeper.send_signal(signal.SIGTERM)
        try:
            assert keeper.wait(20) == 0
        finally:
            keeper.kill()


UP_THAT_NOTICES_SOON = """
import sys
from orchestrator import pulse, up
pulse.FROZEN_S = 2.0
sys.exit(up.main(["--listen", "127.0.0.1:0", "--run-dir", sys.argv[1], "--log-format", "json"]))
"""


def test_an_orchestrator_that_is_frozen_is_replaced(tmp_path: Path) -> None:
    line = [sys.executable, "-c", UP_THAT_NOTICES_SOON, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        assert any("listening on" in text for text in keeper.stdout)
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGSTOP)
        try:
            assert any("is frozen" in json.loads(text)["message"] for text in keeper.stdout)
            assert any("listening on" in json.loads(text)["message"] for text in keeper.stdout)
        finally:
            keeper.send_signal(signal.SIGTERM)
            assert keeper.wait(20) == 0


def test_without_ray_every_line_is_a_record_too(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no ray here')")
    line = [sys.executable, "-m", "orchestrator.up", "--backend", "ray", "--log-format", "json"]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [*line, "--run-dir", str(tmp_path / "run"), "--listen", "127.0.0.1:0"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [json.loads(text)["message"] for text in done.stdout.splitlines()]
    (why,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert said == ["starting a Ray on this machine …"]
    assert why["level"] == "error"
    assert "pip install 'tandem[ray]'" in why["message"]
    assert done.returncode in (1, 2)


@pytest.mark.parametrize("role", list(Role))
def test_every_service_gets_the_log_level(role: Role) -> None:
    line = command(Wanted("x", role), "127.0.0.1:1", Path("secret"), ServiceSettings(log_level="debug"))
    assert line[line.index("--log-level") + 1] == "debug"
