"""Services that leave, with scripted ones: streams move without a gap, and no question is lost on the way."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator import service
from orchestrator.app import Orchestrator
from orchestrator.arguments import default_run_dir
from orchestrator.driver import MAX_FAILURES
from reasoner_svc import moving
from tandem.commands import drain
from tandem.commands.drain import ask_to_leave
from tandem.core.errors import (
    Incompatible,
    InvalidInput,
    NotFound,
    PermissionRefused,
    Unavailable,
    WrongState,
)
from tandem.wire.attach import drain_proof
from tandem.wire.gen.tandem.v1 import registry_pb2, registry_pb2_grpc
from tandem.wire.leaving import Leaving
from tandem.wire.status import error_from_rpc
from tests.faults.fleet import free_port
from tests.integration.orchestrator_fakes import Client, World


async def settled(client: Client, blocks: int) -> None:
    await client.until(lambda: client.progress.blocks == blocks)


def leave(world: World, name: str) -> None:
    attachment = world.hosted[name].attachment
    assert attachment is not None
    attachment.leave()


async def test_a_stream_leaves_its_encoder_for_another_and_misses_nothing(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.pictures(0, 500)
        await settled(client, 2)
        leave(world, "encoder-0")
        await client.pictures(1000)
        await settled(client, 3)
        session = world.app.streams.get("cam").session
        assert session.encoder == "encoder-0", "nobody else can take it yet"
        await world.add("encoder-1")
        await world.until(lambda: session.encoder == "encoder-1" and session.state == "live")
        await client.pictures(1500)
        await client.ask()
        assert (await client.answer()).text == "0 500 1000 1500 "
        assert not client.progress.gaps
        assert session.epoch == 2
        assert world.app.cluster.placed["encoder-0"] == 0
        seen = world.app.cluster.observer.find("cam")
        assert seen is not None
        assert (seen.last_error, seen.lost_s) == ("", None), "what was asked for is no failure"


async def test_a_stream_takes_its_blocks_to_another_reasoner_and_its_last_answer_is_given(
    tmp_path: Path,
) -> None:
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        client = await world.watch()
        await client.pictures(0, 500)
        await settled(client, 2)
        session = world.app.streams.get("cam").session
        assert session.reasoner == "reasoner-0"
        former, later = world.reasoners["reasoner-0"], world.reasoners["reasoner-1"]
        former.gate.clear()
        await client.ask("open")
        await client.until(lambda: "open" in client.deltas)
        leave(world, "reasoner-0")
        await world.until(lambda: session.reasoner == "reasoner-1" and session.state == "live")
        await client.pictures(1000)
        await client.ask("later")
        assert (await client.answer("later")).text == "0 500 1000 "
        assert later.questions == ["later"]
        assert "cam" in former.streams, "its answer is not given yet"
        former.gate.set()
        assert (await client.answer("open")).text == "0 500 "
        await world.until(lambda: "cam" not in former.streams)
        assert former.kept_disk["cam"]
        assert not client.progress.gaps


async def test_an_ended_stream_moves_too(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        client = await world.watch()
        await client.pictures(0, 500)
        await client.end()
        await client.finished()
        session = world.app.streams.get("cam").session
        leave(world, "reasoner-0")
        await world.until(lambda: session.reasoner == "reasoner-1" and session.state == "ended")
        assert world.reasoners["reasoner-1"].streams["cam"].blocks == [0, 500_000]


async def test_a_move_that_fails_is_tried_again_and_nothing_is_lost_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.driver.STAY_S", 0.5)
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        client = await world.watch()
        await client.pictures(0, 500)
        await settled(client, 2)
        later = world.reasoners["reasoner-1"]
        later.move_errors = [Incompatible("not now"), Unavailable("not yet")]
        leave(world, "reasoner-0")
        session = world.app.streams.get("cam").session
        await world.until(lambda: len(later.move_errors) == 1)
        await client.pictures(1000)
        await settled(client, 3)
        assert session.reasoner == "reasoner-0", "it goes on where it was until it can move"
        await world.until(lambda: session.reasoner == "reasoner-1" and session.state == "live")
        await client.pictures(1500)
        await client.ask()
        assert (await client.answer()).text == "0 500 1000 1500 "
        assert not client.progress.gaps


async def test_however_often_a_move_fails_the_stream_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.driver.STAY_S", 0.02)
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        client = await world.watch()
        await client.pictures(0, 500)
        await settled(client, 2)
        later = world.reasoners["reasoner-1"]
        later.move_errors = [Unavailable(f"not yet {number}") for number in range(MAX_FAILURES + 2)]
        leave(world, "reasoner-0")
        session = world.app.streams.get("cam").session
        # Its client sends nothing meanwhile: nothing shows that the stream is well.
        await world.until(lambda: session.reasoner == "reasoner-1" and session.state == "live", 20.0)
        await client.pictures(1000)
        await client.ask()
        assert (await client.answer()).text == "0 500 1000 "
        assert not client.progress.gaps


async def test_streams_that_wait_for_their_turn_to_move_are_watched_where_they_are(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        clients = {f"cam-{number}": await world.watch(f"cam-{number}") for number in range(5)}
        sessions = {name: world.app.streams.get(name).session for name in clients}
        for client in clients.values():
            await client.pictures(0, 500)
            await settled(client, 2)
        await world.add("reasoner-1")
        await world.until(lambda: world.app.cluster.service("reasoner-1") is not None)
        later = world.reasoners["reasoner-1"]
        later.move_gate.clear()
        leave(world, "reasoner-0")
        await world.until(lambda: later.moving == 2)
        await asyncio.sleep(0.1)
        waiting = {name for name, session in sessions.items() if session.epoch == 1}
        assert (len(waiting), later.moving) == (3, 2)
        for name in waiting:
            await clients[name].pictures(1000)
            await settled(clients[name], 3)
            assert sessions[name].reasoner == "reasoner-0"
        later.move_gate.set()
        moved = ("reasoner-1", "live")
        await world.until(lambda: all((each.reasoner, each.state) == moved for each in sessions.values()))
        for name, client in clients.items():
            await client.pictures(1500)
            await client.ask()
            text = "0 500 1000 1500 " if name in waiting else "0 500 1500 "
            assert (await client.answer()).text == text


def test_as_many_move_at_once_as_a_reasoner_takes() -> None:
    assert service.MOVES_AT_ONCE == moving.MAX_MOVES


async def test_reasoners_that_share_a_directory_hand_a_stream_over_by_way_of_it(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        client = await world.watch()
        await client.pictures(0, 500)
        await settled(client, 2)
        former, later = world.reasoners["reasoner-0"], world.reasoners["reasoner-1"]
        later.move_errors = [WrongState("another process has it open")]
        former.gate.clear()
        await client.ask("open")
        await client.until(lambda: "open" in client.deltas)
        leave(world, "reasoner-0")
        await world.until(lambda: not later.move_errors)
        await asyncio.sleep(0.2)
        assert "cam" not in former.closed, "its last answer is written still"
        former.gate.set()
        assert (await client.answer("open")).text == "0 500 "
        session = world.app.streams.get("cam").session
        await world.until(lambda: session.reasoner == "reasoner-1" and session.state == "live")
        assert former.closed == ["cam"]
        assert not later.opens[-1].HasField("source")


def arguments_of(*words: str) -> argparse.Namespace:
    name, address, *options = words
    parser = argparse.ArgumentParser()
    drain.COMMAND.add_arguments(parser)
    return parser.parse_args([name, "--address", address, *options])


async def test_a_request_to_drain_is_for_one_start_of_a_service(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        former = world.hosted["encoder-0"]
        not_after_s = int(time.time()) + 60
        proof = drain_proof(world.app.cluster.secret, "encoder-0", former.boot_id, 0, not_after_s)
        request = registry_pb2.DrainServiceRequest(
            name="encoder-0", boot_id=former.boot_id, not_after_unix_s=not_after_s, proof=proof
        )
        await former.kill()
        later = await world.add("encoder-0")
        await world.until(
            lambda: any(m.is_ready and m.identity.boot_id == later.boot_id for m in world.app.cluster.members)
        )
        stub: Any = registry_pb2_grpc.RegistryServiceStub(world.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DrainService(request)
        assert isinstance(error_from_rpc(caught.value, "draining"), WrongState)
        request.boot_id = later.boot_id
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DrainService(request)
        assert isinstance(error_from_rpc(caught.value, "draining"), PermissionRefused)
        assert all(m.is_ready for m in world.app.cluster.members if m.identity.boot_id == later.boot_id)
        assert not later.leaving.is_asked


async def test_the_command_finds_the_secret_in_the_data_directory(tmp_path: Path) -> None:
    async with World(tmp_path / "run") as world:
        address, data_dir = world.app.address, tmp_path / "data"
        arguments = arguments_of("encoder-0", address, "--no-wait", "--data-dir", str(data_dir))
        with pytest.raises(InvalidInput, match=r"(?s)--secret-file.*--data-dir"):
            await drain._drain(arguments)
        run_dir = default_run_dir(address, str(data_dir))
        run_dir.mkdir(parents=True)
        (run_dir / "secret").symlink_to(tmp_path / "run" / "secret")
        assert await drain._drain(arguments) == 0
        await asyncio.wait_for(world.hosted["encoder-0"].leaving.asked(), 5)


async def test_the_command_tells_a_service_to_leave_and_needs_the_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with World(tmp_path) as world:
        secret, address = tmp_path / "secret", world.app.address
        wrong = tmp_path / "wrong"
        wrong.write_text("0" * 64)
        wrong.chmod(0o600)
        with pytest.raises(PermissionRefused, match="secret"):
            await ask_to_leave(address, "encoder-0", wrong, 0.0)
        with pytest.raises(NotFound, match="attached: encoder-0, reasoner-0"):
            await ask_to_leave(address, "encoder-9", secret, 0.0)
        told = await ask_to_leave(address, "encoder-0", secret, 3.0)
        assert (told.streams, told.has_successor) == (0, False)
        assert told.boot_id == world.hosted["encoder-0"].boot_id
        await asyncio.wait_for(world.hosted["encoder-0"].leaving.asked(), 5)
        await world.add("reasoner-1")
        command = asyncio.create_task(
            drain._drain(
                arguments_of("reasoner-0", address, "--secret-file", str(secret), "--grace-seconds", "5")
            )
        )
        await asyncio.wait_for(world.hosted["reasoner-0"].leaving.asked(), 5)
        assert not command.done()
        await world.hosted["reasoner-0"].kill()
        assert await asyncio.wait_for(command, 10) == 0
        assert "reasoner-0 has left" in capsys.readouterr().out


async def test_who_drains_while_the_orchestrator_is_replaced_drops_nothing(
    tmp_path: Path,
) -> None:
    """As in an upgrade that replaces all roles side by side."""
    port = free_port()
    async with World(tmp_path, listen=f"127.0.0.1:{port}") as world:
        await world.add("reasoner-1")
        first = await world.watch()
        await first.pictures(0, 500)
        await settled(first, 2)
        former = world.reasoners["reasoner-0"]
        assert "cam" in former.streams
        attachment = world.hosted["reasoner-0"].attachment
        assert attachment is not None
        token = first.welcome.resume_token
        await world.app.stop()
        leaving = Leaving(20.0, returns_s=15.0)
        waiting = asyncio.create_task(leaving.wait_for_streams(attachment, lambda: len(former.streams)))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        world.app = Orchestrator(world._config, lambda text: None)
        await world.app.start()
        second = await world.watch(token=token)
        await world.until(lambda: world.app.streams.get("cam").session.reasoner == "reasoner-1", 15.0)
        await second.pictures(1000)
        await second.ask()
        assert (await second.answer()).text == "0 500 1000 "
        assert await waiting > 1.0, "it has left in time"
        assert not second.progress.gaps
