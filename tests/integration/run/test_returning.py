"""A host whose certificate ended while it was away comes back by its key, over a real socket, and nobody else does in its place."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from protheon_dask.broker.join import RENEW_PATH, JoinThread
from protheon_dask.broker.tls import TlsFiles, join_no_of
from protheon_dask.errors import BrokerUnavailable, ConfigError, NotAllowed
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.authority import HOSTS, RETURN_FOR, Authority
from protheon_dask.run.trust.join_client import called
from protheon_dask.run.trust.join_desk import JoinDesk
from protheon_dask.run.trust.joining import join
from protheon_dask.run.trust.membership import certificate_of, identity_of, membership_of, own_key
from protheon_dask.run.trust.returning import come_back
from tests.fixtures import tls
from tests.integration.run.test_authority import Clock, admit, invited, request

LOOPBACK = "127.0.0.1"


class Served:
    """A master whose authority's clock is moved; TLS goes by this machine's own."""

    def __init__(self, home: Path) -> None:
        self.away = timedelta(0)  # what the authority's clock is behind by
        self.authority = Authority.create(home, lambda: datetime.now(UTC) - self.away)
        self.tls = tls.identity(self.authority, tls.MASTER, home)
        self.port = 0

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def joined(self, home: Path, name: str, ago: timedelta) -> TlsFiles:
        """A host that joined so long ago."""
        self.away = ago
        try:
            return join(self.authority.invite(600, 1, [self.address]), home, name).tls
        finally:
            self.away = timedelta(0)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "master")
    with JoinThread(JoinDesk(made.authority, 50051), made.tls, LOOPBACK, 0) as server:
        made.port = server.port
        yield made


def test_a_host_comes_back_by_itself_as_long_as_it_was_not_removed(
    master: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = master.joined(tmp_path, "handheld", timedelta(days=3))
    before, key = certificate_of(files), files.key.read_bytes()
    assert identity_of(files).until_at < datetime.now(UTC)

    with caplog.at_level(logging.INFO):
        assert come_back(files)
    assert identity_of(files).until_at > datetime.now(UTC) + timedelta(hours=23)
    assert files.key.read_bytes() == key
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.certificate, files.key)
    serial_no = certificate_of(files).serial_number
    assert join_no_of(serial_no) == join_no_of(before.serial_number)  # of the same joining
    assert not master.authority.is_removed("handheld", serial_no)
    told = [(record.getMessage(), record.__dict__.get("host")) for record in caplog.records]
    assert ("join.back", "handheld") in told

    assert not come_back(files)  # it is good: nobody is asked
    assert certificate_of(files).serial_number == serial_no


def test_the_line_by_which_it_joined_may_stand_in_a_unit_file_after_the_holidays_too(master: Served, tmp_path: Path) -> None:
    master.away = timedelta(days=3)
    token = master.authority.invite(600, 1, [master.address])
    join(token, tmp_path, "handheld")
    master.away = timedelta(0)

    again = join(token, tmp_path, "handheld")  # it is used up, and has expired
    assert (again.host, again.is_new) == ("handheld", False)
    assert come_back(again.tls)


def test_a_host_that_was_removed_or_away_for_too_long_is_told_so_and_keeps_what_it_has(master: Served, tmp_path: Path) -> None:
    removed = master.joined(tmp_path / "a", "removed", timedelta(days=2))
    late = master.joined(tmp_path / "b", "late", timedelta(days=32))
    master.authority.remove("removed")
    before = [files.certificate.read_bytes() for files in (removed, late)]

    with pytest.raises(NotAllowed, match="does not take this host back: host removed was removed"):
        come_back(removed)
    with pytest.raises(NotAllowed, match=r"host late ended at .* more than 30 days ago: `protheon cluster invite`"):
        come_back(late)
    assert [files.certificate.read_bytes() for files in (removed, late)] == before


def test_another_network_with_the_same_addresses_is_told_nothing_and_waited_out(master: Served, tmp_path: Path) -> None:
    """A laptop in a hotel: another cluster's master answers there, or a host of its own cluster, or nobody."""
    files = master.joined(tmp_path / "host", "laptop", timedelta(days=2))
    member = membership_of(files)
    assert member is not None
    other = Served(tmp_path / "other")
    inside = tls.identity(master.authority, "inside", tmp_path / "inside")
    for shown in (other.tls, inside):
        with JoinThread(JoinDesk(other.authority, 1), shown, LOOPBACK, 0) as stranger, socket.create_server((LOOPBACK, 0)) as closed:
            nobody = f"{LOOPBACK}:{closed.getsockname()[1]}"
            closed.close()
            addresses = (f"{LOOPBACK}:{stranger.port}", nobody)
            files.note.write_bytes(msgspec.json.encode(msgspec.structs.replace(member, joining=addresses)))
            with pytest.raises(BrokerUnavailable, match=rf"{stranger.port} is not the master of this cluster.*{nobody}: Conn.* refused"):
                come_back(files)
    files.note.write_bytes(msgspec.json.encode(msgspec.structs.replace(member, joining=(nobody, master.address))))
    assert come_back(files)


def test_a_host_that_joined_before_addresses_were_noted_is_told_what_to_do(master: Served, tmp_path: Path) -> None:
    files = master.joined(tmp_path, "handheld", timedelta(days=2))
    files.note.write_text(json.dumps({"master": "10.9.8.7:50051", "host": "handheld", "invite": "i"}))

    with pytest.raises(ConfigError, match=r"certificate of host handheld ended at .*cluster invite"):
        come_back(files)


def test_a_master_that_cannot_read_its_list_of_hosts_is_waited_for(master: Served, tmp_path: Path) -> None:
    files = master.joined(tmp_path, "handheld", timedelta(days=2))
    path = master.authority.directory / HOSTS
    known = path.read_bytes()
    path.write_text("{")
    with pytest.raises(BrokerUnavailable, match="cannot read its list of hosts"):
        come_back(files)
    path.write_bytes(known)
    assert come_back(files)


def test_two_processes_of_a_host_ask_once(master: Served, tmp_path: Path) -> None:
    files = master.joined(tmp_path, "handheld", timedelta(days=2))
    came: list[bool] = []
    threads = [threading.Thread(target=lambda: came.append(come_back(files))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(came) == [False, False, False, True]


def posted(master: Served, body: object) -> tuple[int, str]:
    """What a client of another kind is told, which shows nothing and looks at nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    code, told = called(master.address, context, "POST", RENEW_PATH, msgspec.json.encode(body))
    return code, told.decode()


def test_a_strangers_request_is_refused_and_one_that_was_captured_is_worth_nothing(master: Served, tmp_path: Path) -> None:
    files = master.joined(tmp_path, "handheld", timedelta(days=2))
    own = certificates.make_request(own_key(files), "handheld").decode()
    strange = certificates.make_request(certificates.make_key(), "handheld").decode()
    hosts = (master.authority.directory / HOSTS).read_bytes()

    refused = [posted(master, {"host": host, "csr": csr}) for host, csr in (("handheld", strange), ("nobody", own), ("master", own))]
    assert [code for code, _ in refused] == [403, 403, 403]
    assert all("by this key" in told for _, told in refused)
    assert posted(master, {"host": "handheld", "csr": own.replace("M", "N", 1)})[0] == 400
    wrong: list[object] = [{}, [], {"host": "a"}, {"host": 1, "csr": ""}, {"host": "a", "csr": "", "key": ""}]
    for body in wrong:
        assert posted(master, body)[0] == 400
    assert (master.authority.directory / HOSTS).read_bytes() == hosts

    code, told = posted(master, {"host": "handheld", "csr": own})  # captured, and sent again by somebody else
    given = certificates.from_pem(msgspec.json.decode(told)["certificate"].encode())
    assert (code, given.public_key()) == (200, own_key(files).public_key())  # for the host's own key alone


# -- the authority itself


@dataclass
class Host:
    """A host's key, as the authority meets it."""

    name: str

    def __post_init__(self) -> None:
        self.key = certificates.make_key()

    @property
    def csr(self) -> bytes:
        return certificates.make_request(self.key, self.name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.create(tmp_path, clock)


def test_the_time_to_come_back_in_ends_sharply_and_begins_anew_with_each_certificate(authority: Authority, clock: Clock) -> None:
    host = Host("nuc")
    admit(authority, invited(authority), "nuc", host.csr)
    for _ in range(2):
        clock.now += certificates.HOST_LIFE + RETURN_FOR - timedelta(seconds=1)
        shown = certificates.read_host(authority.take_back("nuc", host.csr))
        assert shown.until_at == clock.now + certificates.HOST_LIFE
    authority.take_back("nuc", host.csr)  # the answer was lost
    clock.now += certificates.HOST_LIFE + RETURN_FOR
    with pytest.raises(NotAllowed, match="more than 30 days ago"):
        authority.take_back("nuc", host.csr)


def test_a_key_of_an_earlier_joining_is_another_key(authority: Authority, clock: Clock) -> None:
    first, second = Host("nuc"), Host("nuc")
    admit(authority, invited(authority), "nuc", first.csr)
    authority.remove("nuc")
    with pytest.raises(NotAllowed, match="was removed"):
        authority.take_back("nuc", first.csr)
    admit(authority, invited(authority), "nuc", second.csr)

    with pytest.raises(NotAllowed, match="by this key"):
        authority.take_back("nuc", first.csr)
    assert join_no_of(certificates.read_host(authority.take_back("nuc", second.csr)).serial_no) == 2


def test_the_master_is_renewed_by_its_own_authority_alone(authority: Authority) -> None:
    host = Host("gaming-pc")
    authority.admit_master(host.csr, "gaming-pc")
    with pytest.raises(NotAllowed, match="is the master"):
        authority.take_back("gaming-pc", host.csr)


def test_a_record_from_before_keys_were_noted_gets_one_by_the_next_renewal(authority: Authority) -> None:
    host = Host("nuc")
    admit(authority, invited(authority), "nuc", host.csr)
    path = authority.directory / HOSTS
    known = json.loads(path.read_text())
    for record in known["hosts"]:
        del record["key_sha256"]
    path.write_text(json.dumps(known))

    with pytest.raises(NotAllowed, match="by this key"):
        authority.take_back("nuc", host.csr)
    authority.renew("nuc", host.csr)
    assert authority.take_back("nuc", host.csr)


def test_a_request_that_its_key_did_not_sign_proves_nothing(authority: Authority) -> None:
    host = Host("nuc")
    admit(authority, invited(authority), "nuc", host.csr)
    with pytest.raises(ConfigError):
        authority.take_back("nuc", b"-----BEGIN CERTIFICATE REQUEST-----\n")
    with pytest.raises(NotAllowed):
        authority.take_back("nuc", request())
