"""A host that was removed is shut out of Dask's processes: by the authority's own file on the master, by what the master told elsewhere."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.comm.core import CommClosedError, connect
from distributed.comm.utils import to_frames
from distributed.core import Server
from distributed.protocol.serialize import ToPickle

from protheon_dask.broker.tls import SERIAL_RANDOM_BITS, TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.run.trust import dask_tls
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.dask_tls import refuse_removed
from protheon_dask.run.trust.identity import dask_security
from protheon_dask.run.trust.removed import REMOVED_FILE, Noted, note_removed
from tests.fixtures import tls

WAIT_S = 30.0


class Cluster:
    """A Dask server of one host, and connections to it by certificates of others."""

    def __init__(self, server: Server, authority: Authority) -> None:
        self.server, self.authority = server, authority

    async def connection(self, files: TlsFiles, address: str = "") -> Any:
        security: Any = dask_security(files)  # distributed is not typed here, nor are its comms
        dial: Any = connect
        return await dial(address or self.server.address, timeout=WAIT_S, **security.get_connection_args("worker"))

    async def is_answered(self, comm: Any) -> bool:
        try:
            await comm.write({"op": "ping", "reply": True})
            return bool(await asyncio.wait_for(comm.read(), WAIT_S) == "pong")
        except CommClosedError:
            return False

    async def is_let_in(self, files: TlsFiles) -> bool:
        try:
            comm = await self.connection(files)
        except OSError:  # the handshake of Dask was cut off
            return False
        try:
            return await self.is_answered(comm)
        finally:
            comm.abort()


@asynccontextmanager
async def make_server(security: Any) -> AsyncIterator[Server]:
    make: Any = Server  # distributed is not typed here
    async with make({"ping": lambda: "pong"}, connection_args=security.get_connection_args("worker")) as server:
        await server.listen("tls://127.0.0.1:0", **security.get_listen_args("worker"))
        yield server


def run(home: Path, own: TlsFiles, authority: Authority, story: Callable[[Cluster], Awaitable[None]]) -> None:
    """Tell the story to a server of this home, whose processes Dask's preloads have set up."""

    async def told() -> None:
        async with make_server(dask_security(own)) as server:
            refuse_removed(server, Settings(home=str(home), tls_dir=str(own.directory)))
            await story(Cluster(server, authority))

    asyncio.run(told())


async def closed(cluster: Cluster, comm: Any) -> None:
    """Wait until the other end of a connection that is open has closed it, though nobody uses it."""
    with pytest.raises(CommClosedError):
        await asyncio.wait_for(comm.read(), WAIT_S)


def test_a_worker_of_another_host_shuts_out_whom_its_master_removed(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path / "master")
    own, good, bad = (tls.identity(authority, name, tmp_path / name) for name in ("nuc", "good", "bad"))

    async def story(cluster: Cluster) -> None:
        held, kept = await cluster.connection(bad), await cluster.connection(good)
        assert await cluster.is_answered(held)
        async with make_server(dask_security(bad)) as scheduler:
            stream = await cluster.connection(own, scheduler.address)
            with_stream: Any = cluster.server
            with_stream.batched_stream = SimpleNamespace(comm=stream)  # as a worker has one
            assert note_removed(own, {"bad": 2, "another": 2})
            await closed(cluster, stream)
        await closed(cluster, held)
        assert not await cluster.is_let_in(bad)
        assert await cluster.is_answered(kept)
        assert await cluster.is_let_in(good)

        authority.remove("bad")
        anew = tls.identity(authority, "bad", tmp_path / "anew")
        assert await cluster.is_let_in(anew)  # before the master has told of it, too
        assert not await cluster.is_let_in(bad)  # the certificate from before
        assert note_removed(own, {"another": 2})
        assert await cluster.is_let_in(bad)

    run(tmp_path / "nuc", own, authority, story)


def test_a_process_on_the_master_asks_the_authority_itself(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    own, bad = tls.identity(authority, tls.MASTER, tmp_path), tls.identity(authority, "bad")

    async def story(cluster: Cluster) -> None:
        held = await cluster.connection(bad)
        assert await cluster.is_answered(held)
        authority.remove("bad")
        await closed(cluster, held)
        assert not await cluster.is_let_in(bad)

        again = tls.identity(authority, "bad", tmp_path / "again")
        assert await cluster.is_let_in(again)
        assert not await cluster.is_let_in(bad)  # the certificate from before

    run(tmp_path, own, authority, story)


class Greeting:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


async def greet(address: str, files: TlsFiles, greeting: Greeting) -> None:
    """Say it in Dask's handshake, and wait until it was unpickled, or the other end has hung up."""
    host, _, port = address.removeprefix("tls://").rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(files.certificate, files.key)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    to_pickle: Any = ToPickle
    framed: Any = to_frames
    said = {"compression": None, "python": tuple(sys.version_info)[:3], "pickle-protocol": 5, "said": to_pickle(greeting)}
    frames = [bytes(frame) for frame in await framed(said)]
    data = struct.pack(f"<{1 + len(frames)}Q", len(frames), *map(len, frames)) + b"".join(frames)
    writer.write(struct.pack("<Q", len(data)) + data)
    async with asyncio.timeout(WAIT_S):
        while not Path(greeting.path).exists():
            with suppress(TimeoutError):
                try:
                    if not await asyncio.wait_for(reader.read(1 << 16), 0.1):
                        break
                except ConnectionError:
                    break
    writer.close()


def test_what_a_removed_host_says_in_dasks_greeting_is_not_unpickled(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    own, good, bad = tls.identity(authority, tls.MASTER, tmp_path), tls.identity(authority, "good"), tls.identity(authority, "bad")
    authority.remove("bad")

    async def story(cluster: Cluster) -> None:
        for name, files in (("bad", bad), ("good", good)):
            await greet(cluster.server.address, files, Greeting(tmp_path / f"by-{name}"))
        assert (tmp_path / "by-good").exists()  # who is trusted runs code
        assert not (tmp_path / "by-bad").exists()

    run(tmp_path, own, authority, story)


def test_strangers_who_say_nothing_are_few_and_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = tls.authority(tmp_path)
    own, good = tls.identity(authority, tls.MASTER, tmp_path), tls.identity(authority, "good")
    monkeypatch.setattr(dask_tls, "MAX_HANDSHAKES", 2)

    async def hung_up(reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""

    async def story(cluster: Cluster) -> None:
        host, _, port = cluster.server.address.removeprefix("tls://").rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        await hung_up(silent[0][0])  # the oldest, when one more came than there may be
        assert await cluster.is_let_in(good)
        monkeypatch.setattr(dask_tls, "HANDSHAKE_S", 0.1)
        late, writer = await asyncio.open_connection(host, int(port))
        await hung_up(late)
        for _, each in [*silent, (late, writer)]:
            each.close()

    run(tmp_path, own, authority, story)


def test_a_note_that_is_no_news_is_not_written(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path)
    path = tmp_path / REMOVED_FILE
    assert not note_removed(files, {})
    assert not path.exists()
    assert note_removed(files, {"b": 2, "a": 3})
    stamp = path.stat().st_ino
    assert not note_removed(files, {"a": 3, "b": 2})
    assert path.stat().st_ino == stamp


def test_a_note_that_is_damaged_trusts_nobody_until_it_is_written_anew(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path)
    noted = Noted(files)
    assert not noted.is_removed("pc", 1)
    (tmp_path / REMOVED_FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        noted.is_removed("pc", 1)
    assert note_removed(files, {"other": 2})
    assert not noted.is_removed("pc", 1)
    assert noted.is_removed("other", 1)
    assert not noted.is_removed("other", 2 << SERIAL_RANDOM_BITS)
