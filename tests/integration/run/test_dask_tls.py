"""Dask by certificates of the cluster's own authority: who gets in, who is thrown out, and how a new certificate is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from ssl import TLSVersion
from typing import Any, ParamSpec

import dask
import pytest
from distributed import Client, Scheduler, Security, Worker
from distributed.comm.core import connect

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.run.trust import certificates, dask_tls, founding
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.dask_tls import Renewed, peer_of, refuse_removed
from protheon_dask.run.trust.identity import dask_security, security_environment
from protheon_dask.run.trust.join_token import JoinToken
from protheon_dask.run.trust.membership import Membership, identity_of, own_key, write_identity
from protheon_dask.run.trust.owner_files import replace_file

P = ParamSpec("P")
dial: Any = connect  # distributed is not typed here
client_of: Any = Client
security_of: Any = Security


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a master, whose authority is here."""
    founding.init(Settings(home=str(tmp_path / "master")), "nuc", [])
    return tmp_path / "master"


def joined(home: Path, host: str, directory: Path) -> TlsFiles:
    """The identity of a host that was invited."""
    authority = Authority.open(home)
    token = JoinToken.parse(authority.invite(60.0, 1, ["nuc:50052"]))
    key = certificates.make_key()
    admission = authority.admit(token.invite, token.secret, certificates.make_request(key, host), host)
    tls = TlsFiles(directory / host)
    tls.directory.mkdir(parents=True, exist_ok=True)
    write_identity(
        tls,
        key_pem=certificates.key_to_pem(key),
        certificate_pem=admission.certificate_pem,
        ca_pem=admission.ca_pem,
        membership=Membership(master="nuc:50051", host=host),
    )
    return tls


@asynccontextmanager
async def guarded_scheduler(home: Path) -> AsyncIterator[Scheduler]:
    """A scheduler in this process, as its preload guards it."""
    tls = TlsFiles(home / "tls")
    options: dict[str, Any] = {"protocol": "tls", "host": "127.0.0.1", "port": 0, "security": dask_security(tls)}
    options |= {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # it has a web server none the less
    async with Scheduler(**options) as scheduler:
        refuse_removed(scheduler, Settings(home=str(home), tls_dir=str(tls.directory)))
        yield scheduler


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test that is a coroutine."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def wait_until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def asks(scheduler: Scheduler, tls: TlsFiles | None) -> bool:
    """Does the scheduler answer a new connection of this host? None: in plaintext."""
    security: Any = dask_security(tls)
    arguments = security.get_connection_args("worker") if security is not None else {}
    address = scheduler.address if tls is not None else scheduler.address.replace("tls://", "tcp://")
    try:
        comm = await dial(address, timeout=2, **arguments)
        await comm.write({"op": "identity", "reply": True})
        answer = await asyncio.wait_for(comm.read(), 5)
        await comm.close()
    except (OSError, TimeoutError):
        return False
    return bool(answer["id"] == scheduler.id)


@in_a_loop
async def test_a_removed_host_is_thrown_out_of_the_scheduler_and_let_in_no_more_until_it_joins_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_tls, "REMOVED_LOOK_S", 0.05)
    deck, mac = joined(home, "deck", tmp_path), joined(home, "mac", tmp_path)
    async with guarded_scheduler(home) as scheduler:
        options: dict[str, Any] = {"nthreads": 1, "dashboard": False}
        async with (
            Worker(scheduler.address, name="deck", security=dask_security(deck), **options) as thrown_out,
            Worker(scheduler.address, name="mac", security=dask_security(mac), **options) as kept,
            client_of(scheduler.address, asynchronous=True, security=dask_security(mac)) as client,
        ):
            assert await client.submit(sum, [1, 2], workers=[thrown_out.address]) == 3
            Authority.open(home).remove("deck")
            await wait_until(lambda: [worker.name for worker in scheduler.workers.values()] == ["mac"])
            assert not await asks(scheduler, deck)
            assert await asks(scheduler, mac)
            assert await client.submit(sum, [3, 4], workers=[kept.address]) == 7
        again = joined(home, "deck", tmp_path / "again")
        assert await asks(scheduler, again)
        assert not await asks(scheduler, deck), "its certificate of before is still refused"


@in_a_loop
async def test_who_has_no_certificate_of_this_authority_does_not_get_in(home: Path, tmp_path: Path) -> None:
    founding.init(Settings(home=str(tmp_path / "stranger")), "nuc", [])
    async with guarded_scheduler(home) as scheduler:
        assert await asks(scheduler, TlsFiles(home / "tls"))
        assert not await asks(scheduler, TlsFiles(tmp_path / "stranger" / "tls"))
        assert not await asks(scheduler, None)


@in_a_loop
async def test_a_list_of_hosts_that_cannot_be_read_lets_nobody_in(home: Path) -> None:
    (home / "authority" / "hosts.json").write_text("{")
    async with guarded_scheduler(home) as scheduler:
        assert not await asks(scheduler, TlsFiles(home / "tls"))


@in_a_loop
async def test_a_new_certificate_is_shown_from_the_next_connection_on_by_what_runs_already(home: Path, tmp_path: Path) -> None:
    deck = joined(home, "deck", tmp_path)
    async with guarded_scheduler(home) as scheduler:
        options: dict[str, Any] = {"nthreads": 1, "security": dask_security(deck), "name": "deck"}
        async with Worker(scheduler.address, dashboard=False, **options) as worker:
            renewed = Renewed(deck)
            [before] = {peer_of(comm) for comm in scheduler._comms if peer_of(comm)[0] == "deck"}
            renew(home, deck)
            renewed.look(worker)
            comm = await dial(worker.address, timeout=5, **scheduler.connection_args)  # what it shows who connects to it
            shown = peer_of(comm)
            await comm.close()
            comm = await dial(scheduler.address, timeout=5, **worker.connection_args)  # and where it connects to
            await wait_until(lambda: len({peer_of(each) for each in scheduler._comms if peer_of(each)[0] == "deck"}) == 2)
            await comm.close()
        assert shown[0] == before[0] == "deck"
        assert shown[1] != before[1]


def renew(home: Path, tls: TlsFiles) -> None:
    """As the broker does for a host that asks."""
    host = identity_of(tls).host
    replace_file(tls.certificate, Authority.open(home).renew(host, certificates.make_request(own_key(tls), host)))


class OnePair(Security):
    """As Coiled's: what the class above it has is not there."""

    def __init__(self, certificate: str | None) -> None:
        self.tls_scheduler_cert, self.tls_scheduler_key, self.extra_conn_args = certificate, "key\n", {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"tls_ca_file": "ca\n", "tls_client_cert": "cert\n", "tls_client_key": "key\n", "tls_min_version": TLSVersion.TLSv1_3},
            ("ca\n", "cert\n", "key\n", TLSVersion.TLSv1_3),
        ),
        (None, ("cert\n", "cert\n", "key\n", TLSVersion.TLSv1_2)),
    ],
    ids=["Dask's", "Coiled's"],
)
def test_a_broker_connects_to_somebody_elses_dask_as_the_client_here(given: dict[str, Any] | None, told: tuple[object, ...]) -> None:
    security: Any = OnePair("cert\n") if given is None else security_of(**given)
    in_child: Any = dask.config.merge(dask.config.config, dask.config.collect_env(security_environment(security)))
    with dask.config.set(distributed=in_child["distributed"]):
        there: Any = security_of()
    assert (there.tls_ca_file, there.tls_client_cert, there.tls_client_key, there.tls_min_version) == told
    assert there.require_encryption


def test_a_security_that_no_variables_can_say_is_refused_with_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"how a OnePair connects .* give security=distributed.Security"):
        security_environment(OnePair(None))
