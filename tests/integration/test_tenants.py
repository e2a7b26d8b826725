"""The front door with tokens: what callers get without one, of other tenants, or without a right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orchestrator.access import digest
from tandem.client import MediaKind, PictureFormat, Security, connect
from tandem.commands.drain import ask_to_leave
from tandem.core.errors import InvalidInput, LimitExceeded, NotFound, PermissionRefused, TandemError
from tandem.wire.calls import CallingChannel
from tandem.wire.gen.tandem.v1 import (
    client_pb2,
    client_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    types_pb2,
)
from tandem.wire.status import error_from_rpc
from tests.integration.orchestrator_fakes import PERIOD_US, Client, World

TOKENS = {
    "acme": 'tenant = "acme"',
    "other": 'tenant = "other"',
    "eyes": 'tenant = "acme"\nrights = ["watch"]',
    "mouth": 'tenant = "acme"\nrights = ["ask"]',
    "admin": 'rights = ["admin"]',
    "plain": "",
}


def token(who: str) -> str:
    return f"the-token-of-{who}-0123456789"


class Guarded(World):
    """A world whose front door asks for tokens."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self._folder, self._file = folder, folder / "tokens.toml"
        self.let_in(*TOKENS)
        for who in (*TOKENS, "nobody"):
            (folder / who).write_text(token(who))
        super().__init__(folder / "run", tokens=self._file, **changes)

    def let_in(self, *names: str) -> None:
        """These, and nobody else from now on."""
        text = (f'[[token]]\nsha256 = "{digest(token(who))}"\n{TOKENS[who]}\n' for who in names)
        self._file.write_text("".join(text))

    def by(self, who: str) -> Security:
        return Security(token_file=str(self._folder / who) if who else "")

    @asynccontextmanager
    async def door(self, who: str) -> AsyncIterator[Any]:
        async with CallingChannel(self.app.address, metadata=self.by(who).metadata) as channel:
            yield client_pb2_grpc.TandemServiceStub(channel)  # type: ignore[call-overload]


async def error_of(call: Any) -> TandemError | None:
    """What a call ends with, whatever its kind."""
    try:
        if hasattr(call, "write"):
            await call.write(client_pb2.WatchRequest())
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error, "calling")
    except grpc.aio.UsageError:
        return await end_of(call)
    return None


async def end_of(call: Any) -> TandemError:
    """What a call that is over, or soon will be, has ended with."""
    code, details = await call.code(), await call.details()
    return error_from_rpc(grpc.aio.AioRpcError(code, (), await call.trailing_metadata(), details, ""), "")


CALLS: dict[str, Callable[[Any], Any]] = {
    "Watch": lambda door: door.Watch(timeout=5),
    "Ask": lambda door: door.Ask(client_pb2.AskRequest(stream_id="gate"), timeout=5),
    "ListStreams": lambda door: door.ListStreams(client_pb2.ListStreamsRequest(), timeout=5),
    "GetStatus": lambda door: door.GetStatus(client_pb2.GetStatusRequest(), timeout=5),
}


async def test_without_a_good_token_no_call_is_let_in(tmp_path: Path) -> None:
    methods = {method.name for method in client_pb2.DESCRIPTOR.services_by_name["TandemService"].methods}
    assert methods == set(CALLS), "a new call needs a row here, and a word about whose streams it shows"
    async with Guarded(tmp_path, reflection=True) as world:
        for who in ("", "nobody"):
            async with world.door(who) as door:
                for name, begin in CALLS.items():
                    error = await error_of(begin(door))
                    assert type(error) is PermissionRefused, (who, name, error)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(world.channel).ServerReflectionInfo(iter([listing]))
        assert type(await error_of(call)) is PermissionRefused


async def test_a_tenant_sees_its_own_streams_only(tmp_path: Path) -> None:
    async with Guarded(tmp_path) as world, connect(world.app.address, security=world.by("acme")) as acme:
        async with acme.watch(MediaKind.PICTURES, stream_id="gate") as stream:
            for index in range(4):
                await stream.push_picture(
                    b"\0" * 12, pts_us=index * 500_000, picture_format=PictureFormat.RGB24, width=2, height=2
                )
            assert (await stream.ask("What?")).text
            assert [each.tenant for each in await acme.streams()] == ["acme"]
            assert (await acme.ask("gate", "What?")).text
            info = stream.info
            await _others_know_nothing(world, info.resume_token)
        async with connect(world.app.address, security=world.by("admin")) as admin:
            assert [each.stream_id for each in await admin.streams()] == ["gate"]
            assert (await admin.ask("gate", "What?")).text


async def _others_know_nothing(world: Guarded, resume_token: str) -> None:
    async with connect(world.app.address, security=world.by("other")) as other:
        assert await other.streams() == []
        with pytest.raises(NotFound) as foreign:
            await other.ask("gate", "What?")
        with pytest.raises(NotFound) as unknown:
            await other.ask("nothing", "What?")
        assert foreign.value.message.replace("gate", "nothing") == unknown.value.message
        for its_token in (resume_token, "x." + "0" * 64):
            with pytest.raises(PermissionRefused, match="does not belong"):
                async with other.watch(MediaKind.PICTURES, stream_id="gate", resume_token=its_token):
                    pass
        with pytest.raises(PermissionRefused, match="not of 'acme'"):
            async with other.watch(MediaKind.PICTURES, tenant="acme"):
                pass
        status = await other.status()
        assert status.ready
        assert not status.listeners
        assert not any(each.address or each.build.pid for each in status.services)
        assert not any(each.tenant == "acme" for each in status.decisions)


async def test_rights_are_kept_apart(tmp_path: Path) -> None:
    async with Guarded(tmp_path) as world:
        async with connect(world.app.address, security=world.by("mouth")) as mouth:
            with pytest.raises(PermissionRefused, match="'watch'"):
                async with mouth.watch(MediaKind.PICTURES):
                    pass
        async with connect(world.app.address, security=world.by("eyes")) as eyes:
            with pytest.raises(PermissionRefused, match="'ask'"):
                await eyes.ask("gate", "What?")
            async with eyes.watch(MediaKind.PICTURES, stream_id="gate") as stream:
                await stream.push_picture(
                    b"\0" * 12, pts_us=0, picture_format=PictureFormat.RGB24, width=2, height=2
                )
                with pytest.raises(PermissionRefused, match="'ask'"):
                    await stream.ask("What?")


async def test_only_who_administers_or_has_the_secret_can_drain(tmp_path: Path) -> None:
    async with Guarded(tmp_path) as world:
        address = world.app.address
        with pytest.raises(PermissionRefused):
            await ask_to_leave(address, "encoder-0", None, 1.0, world.by("acme"))
        async with CallingChannel(address) as channel:
            stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[call-overload]
            call = stub.DrainService(registry_pb2.DrainServiceRequest(name="encoder-0"), timeout=5)
            assert type(await error_of(call)) is PermissionRefused
        told = await ask_to_leave(address, "encoder-0", None, 1.0, world.by("admin"))
        assert told.boot_id == world.hosted["encoder-0"].boot_id


async def test_an_open_call_ends_with_its_token(tmp_path: Path) -> None:
    """Within seconds, whatever it is; calls of other tokens go on, also of the same tenant."""
    async with (
        Guarded(tmp_path, reflection=True) as world,
        world.door("eyes") as eyes,
        world.door("mouth") as mouth,
        world.door("acme") as acme,
        CallingChannel(world.app.address, metadata=world.by("eyes").metadata) as seeing,
    ):
        watching = Client(eyes.Watch())
        await watching.open("gate", "", types_pb2.MEDIA_KIND_PICTURES)
        await watching.pictures(0, 500, 1000)
        await watching.until(lambda: watching.progress.blocks)
        world.reasoner.gate.clear()
        question = types_pb2.Question(question_id="q", text="What?", answer_from_published=True)
        asking = mouth.Ask(client_pb2.AskRequest(stream_id="gate", question=question))
        question.question_id = "kept"
        kept = acme.Ask(client_pb2.AskRequest(stream_id="gate", question=question))
        listing = reflection_pb2_grpc.ServerReflectionStub(seeing).ServerReflectionInfo()  # type: ignore[arg-type]
        await listing.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        for call in (asking, kept, listing):
            assert await call.read()

        world.let_in("acme", "other", "admin")
        await watching.finished(5)
        assert watching.error is not None
        async with asyncio.timeout(5):
            ends = [error_from_rpc(watching.error, ""), await end_of(asking), await end_of(listing)]
        for end in ends:
            assert isinstance(end, PermissionRefused), end
            assert end.message == "the token of this call was taken back"
        world.reasoner.gate.set()
        assert await error_of(kept) is None
        listed = await acme.ListStreams(client_pb2.ListStreamsRequest())
        assert [each.stream_id for each in listed.streams] == ["gate"], "it is its tenant's, not its token's"


def opening(tenant: str = "", stream_id: str = "gate", token: str = "") -> client_pb2.WatchRequest.Open:
    media = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES)
    return client_pb2.WatchRequest.Open(stream_id=stream_id, resume_token=token, media=media, tenant=tenant)


async def test_names_are_each_tenants_own(tmp_path: Path) -> None:
    """Whoever opens and forgets a stream of a name that others use learns and does nothing of theirs."""
    async with (
        Guarded(tmp_path) as world,
        world.door("acme") as acme,
        world.door("other") as other,
        connect(world.app.address, security=world.by("acme")) as by_acme,
        connect(world.app.address, security=world.by("other")) as by_other,
        connect(world.app.address, security=world.by("admin")) as by_admin,
    ):
        mine, theirs = Client(acme.Watch()), Client(other.Watch())
        await mine.open("gate", "", types_pb2.MEDIA_KIND_PICTURES)
        await mine.pictures(0, 500, 1000, 1500)
        await mine.until(lambda: mine.progress.blocks == 4)
        for token in (mine.welcome.resume_token, "x." + "0" * 64):
            for held_as in ("gate", next(iter(world.reasoner.streams))):
                call = other.Watch()
                await call.write(client_pb2.WatchRequest(open=opening("", held_as, token)))
                refused = await end_of(call)
                assert isinstance(refused, PermissionRefused)
                assert refused.message == f"the resume token does not belong to stream {held_as}"
        await theirs.open("gate", "", types_pb2.MEDIA_KIND_PICTURES)
        await theirs.pictures(0, 500)
        await theirs.until(lambda: theirs.progress.blocks == 2)
        assert (mine.welcome.stream_id, theirs.welcome.stream_id) == ("gate", "gate")
        assert not theirs.welcome.resumed
        assert sorted(len(each.blocks) for each in world.reasoner.streams.values()) == [2, 4]
        assert [each.tenant for each in await by_acme.streams()] == ["acme"]
        counts = [(await each.ask("gate", "What?")).watermark_us // PERIOD_US for each in (by_acme, by_other)]
        assert counts == [4, 2]
        assert {(each.stream_id, each.tenant) for each in await by_admin.streams()} == {
            ("gate", "acme"),
            ("gate", "other"),
        }
        with pytest.raises(NotFound, match="TENANT/NAME"):
            await by_admin.ask("gate", "What?")
        assert (await by_admin.ask("other/gate", "What?")).watermark_us == 2 * PERIOD_US
        with pytest.raises(NotFound, match="no stream"):
            await by_other.ask("acme/gate", "What?")

        await theirs.end(forget=True)
        await theirs.finished()
        await world.until(lambda: world.reasoner.closed)
        assert [len(each.blocks) for each in world.reasoner.streams.values()] == [4], "acme's is untouched"
        await mine.vanish()
        again = Client(acme.Watch())
        await again.open("gate", mine.welcome.resume_token, types_pb2.MEDIA_KIND_PICTURES)
        assert again.welcome.resumed
        await again.end(forget=True)
        await again.finished()


async def test_nobody_opens_a_stream_under_an_id_of_anothers(tmp_path: Path) -> None:
    async with Guarded(tmp_path) as world, world.door("acme") as acme, world.door("plain") as plain:
        mine = Client(acme.Watch())
        await mine.open("gate", "", types_pb2.MEDIA_KIND_PICTURES)
        await mine.pictures(0)
        await mine.until(lambda: mine.progress.blocks)
        (held_as,) = world.reasoner.streams
        call = plain.Watch()
        await call.write(client_pb2.WatchRequest(open=opening(stream_id=held_as)))
        refused = await end_of(call)
        assert isinstance(refused, InvalidInput)
        call = plain.Watch()
        await call.write(client_pb2.WatchRequest(open=opening(stream_id="free." + "0" * 20)))
        free = await end_of(call)
        assert free.message.replace("free." + "0" * 20, held_as) == refused.message, "taken or not"
        ours = Client(plain.Watch())
        await ours.open("porch", "", types_pb2.MEDIA_KIND_PICTURES)
        for door, name in ((acme, "porch"), (plain, held_as), (plain, "acme/gate")):
            question = types_pb2.Question(text="What?")
            asked = door.Ask(client_pb2.AskRequest(stream_id=name, question=question))
            assert isinstance(await error_of(asked), NotFound), name


async def test_how_many_others_have_is_not_told(tmp_path: Path) -> None:
    async with Guarded(tmp_path, max_streams=1) as world, world.door("acme") as acme:
        told = Client(acme.Watch())
        await told.open("gate", "", types_pb2.MEDIA_KIND_PICTURES)
        assert told.welcome.admission == ""
        for who, words in (("other", "there is no room for the stream now"), ("admin", "1 streams are open")):
            async with connect(world.app.address, security=world.by(who)) as t:
                with pytest.raises(LimitExceeded, match=words) as refused:
                    async with t.watch(MediaKind.PICTURES):
                        pass
                assert refused.value.retry_after_s
                (last, *_) = (await t.status()).decisions[::-1]
                assert bool(last.reason) is (who == "admin")
