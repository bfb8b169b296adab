"""Joining over a real socket with real TLS: the token's own master alone is told the secret, and a host can always try again."""

from __future__ import annotations

import http.client
import logging
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from protheon_dask.broker.join import JoinReply, JoinRequest, JoinThread
from protheon_dask.broker.tls import MASTER_NAME, TlsFiles
from protheon_dask.errors import BrokerUnavailable, ConfigError, NotAllowed
from protheon_dask.run.trust import certificates, join_client
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.host_names import host_name_of
from protheon_dask.run.trust.join_desk import JoinDesk
from protheon_dask.run.trust.join_token import JoinToken
from protheon_dask.run.trust.joining import JOINING_KEY, join
from protheon_dask.run.trust.membership import identity_of, membership_of, renew_if_due, renew_own_if_due
from tests.fixtures import tls
from tests.fixtures.cluster import wait_until

LOOPBACK = "127.0.0.1"
BROKER_PORT = 50051


@dataclass
class Master:
    """A master's joining port, and what was asked there."""

    authority: Authority
    tls: TlsFiles
    port: int = 0
    asked: list[JoinRequest] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def token(self, uses: int = 1, *addresses: str, ttl_s: float = 600) -> str:
        return self.authority.invite(ttl_s, uses, addresses or [self.address])


class Desk(JoinDesk):
    """The real one, which notes what it is asked."""

    def __init__(self, authority: Authority, asked: list[JoinRequest]) -> None:
        super().__init__(authority, BROKER_PORT)
        self._asked = asked

    def join(self, asked: JoinRequest, address: str) -> JoinReply:
        self._asked.append(asked)
        return super().join(asked, address)


@contextmanager
def serving(home: Path, *, deadline_s: float = 10.0, max_connections: int = 64) -> Iterator[Master]:
    authority = tls.authority(home)
    master = Master(authority, tls.identity(authority, tls.MASTER, home))
    with JoinThread(
        Desk(authority, master.asked), master.tls, LOOPBACK, 0, deadline_s=deadline_s, max_connections=max_connections
    ) as server:
        master.port = server.port
        yield master


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    with serving(tmp_path_factory.mktemp("master")) as master:
        yield master


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A host's name for each test: they share a master."""
    return host_name_of(f"h{zlib.crc32(request.node.name.encode())}")


def spoken(master: Master, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """What an own client would be told, without a look at certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = http.client.HTTPSConnection(LOOPBACK, master.port, timeout=30, context=context)
    try:
        client.request(method, path, body)
        response = client.getresponse()
        return response.status, response.read()
    finally:
        client.close()


def test_a_host_joins_by_one_token_and_has_all_that_it_needs(master: Master, tmp_path: Path, name: str) -> None:
    joined = join(master.token(), tmp_path, name)

    assert (joined.host, joined.master, joined.is_new) == (name, f"{LOOPBACK}:{BROKER_PORT}", True)
    assert joined.tls.ca.read_bytes() == master.authority.ca_pem
    assert identity_of(joined.tls).host == name
    assert membership_of(joined.tls) is not None
    context = ssl.create_default_context(cafile=joined.tls.ca)
    context.load_cert_chain(joined.tls.certificate, joined.tls.key)  # they belong together
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (joined.tls.directory, *joined.tls.directory.iterdir())}
    assert {file: mode for file, mode in modes.items() if mode & 0o077} == {}
    assert JOINING_KEY not in modes


def test_the_same_line_pasted_again_changes_nothing_and_asks_nobody(master: Master, tmp_path: Path, name: str) -> None:
    token = master.token()
    first = join(token, tmp_path, name)
    before = first.tls.certificate.read_bytes()
    n_asked = len(master.asked)

    again = join(token, tmp_path, name)
    assert (again, again.is_new) == (replace(first, is_new=False), False)
    assert first.tls.certificate.read_bytes() == before
    assert len(master.asked) == n_asked
    with pytest.raises(ConfigError, match=f"has joined by this token as {name}"):
        join(token, tmp_path, "another-name")


def test_a_host_whose_certificate_ended_asks_again_by_the_same_line_unless_it_can_come_back_by_its_key(
    master: Master, tmp_path: Path, name: str
) -> None:
    token, later = master.token(1), datetime.now(UTC) + timedelta(hours=25)
    files = join(token, tmp_path, name).tls
    assert not join(token, tmp_path, name, now=later).is_new

    member = membership_of(files)
    assert member is not None
    assert member.joining == (master.address,)
    files.note.write_bytes(msgspec.json.encode(msgspec.structs.replace(member, joining=())))  # it joined long ago
    with pytest.raises(NotAllowed, match="used up"):  # it did ask
        join(token, tmp_path, name, now=later)


KILLED_AT_EACH_WRITE = """
import os, signal, sys
from pathlib import Path
from protheon_dask.run.trust.joining import join

home, tokens = Path(sys.argv[1]), sys.argv[2:]
for n, token in enumerate(tokens, start=1):
    if not (pid := os.fork()):
        left, fsync = n, os.fsync
        def fsync_or_die(fd):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(fd)
        os.fsync = fsync_or_die
        join(token, home / str(n), f"killed-{n}")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), join(token, home / str(n), f"killed-{n}").host)
"""


def test_a_kill_at_each_write_of_joining_is_made_good_by_the_same_line(master: Master, tmp_path: Path) -> None:
    tokens = [master.token() for _ in range(12)]
    command = [sys.executable, "-c", KILLED_AT_EACH_WRITE, str(tmp_path), *tokens]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)

    told = [line.split() for line in done.stdout.splitlines()]
    assert [host for _, host in told] == [f"killed-{n}" for n in range(1, 13)]
    assert [int(code) for code, _ in told] == [-signal.SIGKILL] * 10 + [0, 0]  # five files, and the directory after each
    for n in range(1, 13):
        files = TlsFiles(tmp_path / str(n) / "tls")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.certificate, files.key)
        assert not (files.directory / JOINING_KEY).exists()


def test_another_authority_at_the_same_address_is_told_nothing(master: Master, tmp_path: Path, name: str) -> None:
    real = JoinToken.parse(master.token())
    with serving(tmp_path / "stranger") as stranger:
        with pytest.raises(ConfigError, match="not the master that gave this token"):
            join(replace(real, addresses=(stranger.address,)).text(), tmp_path, name)
        assert stranger.asked == []
        # two networks may number their machines alike: the next address is tried
        assert join(replace(real, addresses=(stranger.address, master.address)).text(), tmp_path, name).is_new
        assert stranger.asked == []


def test_somebody_between_with_the_real_ca_pem_is_told_nothing(master: Master, tmp_path: Path, name: str) -> None:
    """ca.pem is no secret: who hands it out, and has a host's certificate of this very cluster, is not the master."""
    inside = tls.identity(master.authority, "inside", tmp_path / "inside")
    stranger = tls.identity(tls.authority(tmp_path / "other"), tls.MASTER, tmp_path / "other")
    for shown in (inside, stranger):
        asked: list[JoinRequest] = []
        with JoinThread(Desk(master.authority, asked), shown, LOOPBACK, 0) as between:
            token = replace(JoinToken.parse(master.token()), addresses=(f"{LOOPBACK}:{between.port}",))
            with pytest.raises(ConfigError, match="is not the master of this cluster: nothing was sent"):
                join(token.text(), tmp_path, name)
        assert asked == []


def test_a_master_whose_certificate_ended_is_told_nothing_and_clocks_are_named(tmp_path: Path, name: str) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=2)
    authority = Authority.create(tmp_path, lambda: yesterday)
    shown = tls.identity(authority, tls.MASTER, tmp_path)
    now = Authority.open(tmp_path)
    asked: list[JoinRequest] = []
    with JoinThread(Desk(now, asked), shown, LOOPBACK, 0) as server:
        token = now.invite(60, 1, [f"{LOOPBACK}:{server.port}"])
        with pytest.raises(ConfigError, match="set the clock here or there"):
            join(token, tmp_path / "host", name)
        assert asked == []

        assert renew_own_if_due(shown, now)  # and the server shows the new one by itself
        wait_until(lambda: _joins(token, tmp_path / "host", name), 60)


def _joins(token: str, home: Path, name: str) -> bool:
    try:
        return join(token, home, name).is_new
    except ConfigError:
        return False


def test_where_nothing_answers_every_address_is_named(tmp_path: Path, name: str, master: Master) -> None:
    with socket.create_server((LOOPBACK, 0)) as free:
        closed = f"{LOOPBACK}:{free.getsockname()[1]}"
    with pytest.raises(BrokerUnavailable, match=r"Connection refused.*no-such-host\.invalid:50052.*are its ports open"):
        join(master.token(1, closed, "no-such-host.invalid:50052"), tmp_path, name)


def test_a_program_without_tls_at_the_address_is_told_nothing(tmp_path: Path, name: str, master: Master) -> None:
    heard = bytearray()

    def answer(listening: socket.socket) -> None:
        with suppress_closed(), listening.accept()[0] as peer:
            heard.extend(peer.recv(65536))
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server((LOOPBACK, 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        token = JoinToken.parse(master.token(1, f"{LOOPBACK}:{listening.getsockname()[1]}"))
        with pytest.raises(BrokerUnavailable, match="speaks no TLS as a master does"):
            join(token.text(), tmp_path, name)
        thread.join(30)
    assert heard
    assert token.secret.hex().encode() not in heard


def test_a_master_that_speaks_slower_than_its_time_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps any time-out of a read from running out."""
    monkeypatch.setattr(join_client, "ANSWER_S", 0.5)
    shown, is_over = tls.identity(tls.authority(tmp_path), tls.MASTER, tmp_path), threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate, shown.key)

    def drip(listening: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not is_over.wait(0.05):
                peer.sendall(b"x")

    with socket.create_server((LOOPBACK, 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        client = ssl.create_default_context(cafile=str(shown.ca))
        with pytest.raises(TimeoutError):
            join_client.called(f"{LOOPBACK}:{listening.getsockname()[1]}", client, "GET", "/", b"")
        is_over.set()
        thread.join(30)


@contextmanager
def suppress_closed() -> Iterator[None]:
    with suppress(OSError):
        yield


def test_the_masters_refusal_reaches_the_person(master: Master, tmp_path: Path, name: str) -> None:
    token = master.token()
    join(token, tmp_path / "a", name)
    with pytest.raises(NotAllowed, match=r"does not let this host join: this token is used up"):
        join(token, tmp_path / "b", f"{name}-b")
    with pytest.raises(NotAllowed, match=rf"a host {name} is in this cluster already"):
        join(master.token(), tmp_path / "b", name)


def test_a_host_of_one_cluster_does_not_slip_into_another(master: Master, tmp_path: Path, name: str) -> None:
    tls.identity(tls.authority(tmp_path / "first"), name, tmp_path)

    with pytest.raises(ConfigError, match="in another cluster already"):
        join(master.token(), tmp_path, name)


def test_two_commands_at_once_on_one_host_join_it_once(master: Master, tmp_path: Path, name: str) -> None:
    token = master.token()
    came: list[bool] = []
    threads = [threading.Thread(target=lambda: came.append(join(token, tmp_path, name).is_new)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(came) == [False, False, False, True]


def test_the_log_tells_who_joined_and_shows_no_secret(master: Master, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    token = master.token()
    with caplog.at_level(logging.DEBUG):
        join(token, tmp_path, name)
        with pytest.raises(NotAllowed):
            join(token, tmp_path / "b", f"{name}-b")

    told = [(record.getMessage(), record.__dict__.get("host"), record.__dict__.get("address")) for record in caplog.records]
    assert ("join.admit", name, LOOPBACK) in told
    assert ("join.refuse", f"{name}-b", LOOPBACK) in told
    secret = JoinToken.parse(token).secret.hex()
    assert not [record for record in caplog.records if secret in repr(record.__dict__)]
    assert secret not in repr(master.asked[-1])


# -- the server, against clients of another kind


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"invite": 1}',
        b'{"invite": "", "secret": "zz", "host": "a", "csr": ""}',
        b'{"invite": "", "secret": "", "host": "../a", "csr": ""}',
        b'{"invite": "", "secret": "", "host": "a", "csr": "x"}',
        b'{"invite": "", "secret": "", "host": "a", "csr": "", "is_master": true}',
    ],
)
def test_a_body_that_is_no_request_is_refused_in_words(master: Master, body: bytes) -> None:
    code, told = spoken(master, "POST", "/join", body)

    assert code == 400
    assert msgspec.json.decode(told)["error"]


def test_an_unknown_invite_is_forbidden(master: Master) -> None:
    csr = certificates.make_request(certificates.make_key(), "a").decode()
    code, _ = spoken(master, "POST", "/join", msgspec.json.encode({"invite": "00", "secret": "00", "host": "a", "csr": csr}))

    assert code == 403


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/join"), ("POST", "/ca.pem"), ("GET", "/../ca.key"), ("PUT", "/join"), ("GET", "/renew")]
)
def test_there_is_nothing_else(master: Master, method: str, path: str) -> None:
    assert spoken(master, method, path)[0] == 404


def test_a_body_beyond_the_bound_is_not_read(master: Master) -> None:
    n_asked = len(master.asked)
    with suppress(http.client.HTTPException, OSError):  # hung up in the midst of our sending, or after its answer
        assert spoken(master, "POST", "/join", b"x" * (1 << 20))[0] == 400
    assert len(master.asked) == n_asked
    assert spoken(master, "GET", "/ca.pem") == (200, master.authority.ca_pem)


def test_plaintext_on_the_tls_port_is_answered_nothing_and_hurts_nobody(master: Master) -> None:
    with socket.create_connection((LOOPBACK, master.port), 30) as client:
        client.sendall(b"GET /ca.pem HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress_closed():
            assert b"HTTP" not in client.recv(65536)
    assert spoken(master, "GET", "/ca.pem")[0] == 200


def test_clients_that_say_nothing_cost_a_socket_for_the_deadline(tmp_path: Path, name: str) -> None:
    with serving(tmp_path / "m", deadline_s=1.0, max_connections=8) as master:
        silent = [socket.create_connection((LOOPBACK, master.port), 30) for _ in range(30)]
        try:
            assert join(master.token(), tmp_path / "h", name).is_new  # meanwhile
            began = time.monotonic()
            for client in silent:
                client.settimeout(30)
                with suppress_closed():
                    assert client.recv(1) == b""
            assert time.monotonic() - began < 30
        finally:
            for client in silent:
                client.close()


def test_a_port_that_is_taken_is_named_with_its_setting(master: Master) -> None:
    with pytest.raises(ConfigError, match=rf"cannot listen on {LOOPBACK}:{master.port} for HTTPS.*join_port"):
        JoinThread(JoinDesk(master.authority, 1), master.tls, LOOPBACK, master.port).start()


# -- renewal


@dataclass
class Renewed:
    """A master's answer to Renew, by the real authority."""

    authority: Authority
    host: str
    n: int = 0

    def renew(self, request_pem: bytes) -> bytes:
        self.n += 1
        return self.authority.renew(self.host, request_pem)


def test_a_certificate_is_renewed_at_a_third_of_its_life_and_its_key_stays(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    files = tls.identity(authority, "nuc")
    master = Renewed(authority, "nuc")
    made_at = identity_of(files).made_at
    key, stamp = files.key.read_bytes(), files.stamp()

    assert not renew_if_due(files, master, made_at + timedelta(hours=7, minutes=59))
    assert (master.n, files.stamp()) == (0, stamp)
    assert renew_if_due(files, master, made_at + timedelta(hours=8))
    assert (master.n, files.key.read_bytes()) == (1, key)
    assert files.stamp() != stamp
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.certificate, files.key)


def test_a_removed_host_keeps_the_certificate_it_has_and_is_told_why(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    files = tls.identity(authority, "nuc")
    before = files.certificate.read_bytes()
    authority.remove("nuc")

    with pytest.raises(NotAllowed, match="was removed"):
        renew_if_due(files, Renewed(authority, "nuc"), datetime.now(UTC) + timedelta(hours=9))
    assert files.certificate.read_bytes() == before


@pytest.mark.parametrize("wrong", ["another host", "another key", "another authority"])
def test_a_certificate_that_is_not_ours_is_not_taken(tmp_path: Path, wrong: str) -> None:
    authority = tls.authority(tmp_path)
    files = tls.identity(authority, "nuc")
    other = tls.identity(authority, "other")
    stranger = tls.identity(tls.authority(tmp_path / "stranger"), "nuc", tmp_path / "stranger")
    again = tls.identity(tls.authority(tmp_path / "again"), "x", tmp_path / "again")
    given = {"another host": other, "another key": again, "another authority": stranger}[wrong].certificate.read_bytes()

    class Wrong:
        def renew(self, request_pem: bytes) -> bytes:
            return given

    before = files.certificate.read_bytes()
    with pytest.raises(ConfigError, match="not for host nuc and its key"):
        renew_if_due(files, Wrong(), datetime.now(UTC) + timedelta(hours=9))
    assert files.certificate.read_bytes() == before


def test_the_master_renews_its_own_with_its_name_even_when_it_has_ended(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    files = tls.identity(authority, tls.MASTER, tmp_path)

    assert not renew_own_if_due(files, authority)
    assert renew_own_if_due(files, authority, datetime.now(UTC) + timedelta(days=400))
    assert MASTER_NAME in certificates.read_host(files.certificate.read_bytes()).names


def test_a_key_that_others_can_read_is_not_renewed_with(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    files = tls.identity(authority, "nuc")
    files.key.chmod(0o644)

    with pytest.raises(ConfigError, match="chmod 600"):
        renew_if_due(files, Renewed(authority, "nuc"), datetime.now(UTC) + timedelta(hours=9))
