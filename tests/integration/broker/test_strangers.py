"""Who is let in over mutual TLS, and what the others are told: real certificates of real authorities, real sockets."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from cryptography import x509

from protheon_dask.broker import wire
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import Versions
from protheon_dask.broker.peers import Peer
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.tls import MASTER_NAME, TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import BrokerUnavailable, ConfigError, MissingSetting, NotAllowed, OtherTransport
from protheon_dask.run.attaching import reached
from protheon_dask.run.cluster_desk import ClusterDesk
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.dask_link import DaskLink, WorkerSeen
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.keys import make_key, read_key
from protheon_dask.run.trust.membership import Membership
from protheon_dask.run.trust.owner_files import replace_file
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.broker import ChunkFolder, Runs
from tests.fixtures.cluster import wait_until
from tests.fixtures.tls import MASTER, authority, identity

URL = "postgresql://loader:a-password@db.example/loads"
KEY = b"k" * 32
PACKED = wire.PackedPipeline("numbers", "1", "m:numbers", b"", b"", b"", "[]", "{}", "{}")


@dataclass(slots=True)
class RunsOfPeers(Runs):
    """Remembers who submitted."""

    peers: list[Peer] = field(default_factory=list)

    def submit(self, submission: wire.Submission, peer: Peer) -> wire.Submitted:
        self.peers.append(peer)
        return wire.Submitted(1, ())


@dataclass
class Clock:
    """The authority's."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Place:
    """A cluster's authority and the brokers of its master, one with mutual TLS and one without."""

    home: Path
    clock: Clock
    authority: Authority
    master: TlsFiles
    runs: RunsOfPeers
    address: str = ""
    plain_address: str = ""

    def join(self, name: str) -> TlsFiles:
        return identity(self.authority, name)

    def client(self, tls: TlsFiles | None) -> BrokerClient:
        return BrokerClient(self.address, tls)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home, clock = tmp_path_factory.mktemp("master"), Clock()
    made = Authority.create(home, clock)
    place = Place(home, clock, made, identity(made, MASTER), RunsOfPeers())
    store = ChunkStore(home / "workspace", 1 << 30)
    coordinator = Coordinator(Settings(), URL, "tls://0.0.0.0:8786", store, uuid4(), 1)  # leads nothing, and runs not
    desk = ClusterDesk(Settings(database_url=URL, renew_s=11.0), coordinator, "tls://0.0.0.0:8786", made, KEY)
    folder = ChunkFolder(home)
    with (
        BrokerThread(place.runs, folder, "127.0.0.1", 0, cluster=desk, tls=place.master) as closed,
        BrokerThread(place.runs, folder, "0.0.0.0", 0, cluster=desk) as plain,  # as --insecure does
    ):
        place.address, place.plain_address = f"127.0.0.1:{closed.port}", f"127.0.0.1:{plain.port}"
        yield place
    coordinator.dask.close()


def submission() -> wire.Submission:
    return wire.Submission(paths=("/a",), pipeline=PACKED)


def test_a_host_of_the_cluster_gets_what_it_needs_to_work(place: Place) -> None:
    with place.client(place.join("nuc")) as client:
        enrolled = client.enrol("another-name", Versions("3.11.7", {"dask": "2026.8.0"}))
        assert (enrolled.database_url, enrolled.cluster_key) == (URL, KEY)
        assert enrolled.scheduler_address == "tls://127.0.0.1:8786"  # where it reached the master
        assert enrolled.settings["renew_s"] == "11.0"
        assert not {"home", "database_url", "tls_dir"} & set(enrolled.settings)
        assert URL not in repr(enrolled)
        assert "kkkk" not in repr(enrolled)

        found = client.hosts()
        by_name = {host.name: host for host in found.hosts}
        assert by_name["nuc"].versions.libraries == {"dask": "2026.8.0"}
        assert by_name["nuc"].certificate_until > datetime.now(UTC).isoformat()
        assert not by_name["nuc"].is_removed
        assert "another-name" not in by_name  # a host is the one that its certificate names
        assert abs(found.now_s - time.time()) < 60
        assert client.echo((3 << 20) + 7) == (3 << 20) + 7
        with pytest.raises(ConfigError, match="an echo has 0 to"):
            client.echo(1 << 40)
        for versions in (
            Versions("3.11.7", {f"library-{no}": "1" for no in range(40)}),
            Versions("3.11.7", {"dask": "1" * (1 << 20)}),
            Versions("\N{SNOWMAN}"),
        ):  # all hosts are told them
            with pytest.raises(ConfigError, match="tells versions that are none"):
                client.enrol("nuc", versions)


def test_workers_of_somebody_elses_dask_have_names_that_a_message_holds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = WorkerSeen("tcp://10.0.0.5:1", "w" * (8 << 20), "h" * (8 << 20), None, 1)
    monkeypatch.setattr(DaskLink, "workers", lambda _: (seen,))
    with place.client(place.join("hears-names")) as client:
        assert ("h" * 253, ("w" * 253,)) in [(host.name, host.workers) for host in client.hosts().hosts]


@pytest.mark.parametrize("reach", ["loopback", "network"])
def test_over_plaintext_no_secret_leaves_the_master(place: Place, reach: str) -> None:
    host = "127.0.0.1" if reach == "loopback" else own_address()
    with BrokerClient(f"{host}:{place.plain_address.rpartition(':')[2]}") as client:
        enrolled = client.enrol("handheld", Versions())
        assert (enrolled.database_url, enrolled.cluster_key) == ("", b"")
        assert enrolled.settings["renew_s"] == "11.0"
        with pytest.raises(NotAllowed, match="has shown no certificate"):
            client.renew(certificates.make_request(certificates.make_key(), "handheld"))
        client.submit(submission())
        assert place.runs.peers[-1].is_here == (reach == "loopback")


def test_a_broker_of_one_address_knows_clients_of_its_machine_by_loopback(place: Place, tmp_path: Path) -> None:
    with BrokerThread(place.runs, ChunkFolder(tmp_path), own_address(), 0) as plain:
        for host, is_here in (("127.0.0.1", True), (own_address(), False)):
            with BrokerClient(f"{host}:{plain.port}") as client:
                client.submit(submission())
            assert place.runs.peers[-1].is_here == is_here


def own_address() -> str:
    """One of this machine's that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; RFC 5737
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def test_over_tls_a_client_is_the_host_of_its_certificate_and_only_the_masters_own_is_here(place: Place) -> None:
    for tls, is_here in ((place.master, True), (place.join("deck"), False)):
        with place.client(tls) as client:
            client.submit(submission())
        peer = place.runs.peers[-1]
        assert (peer.is_here, peer.host) == (is_here, MASTER if is_here else "deck")
        assert peer.serial_no == x509.load_pem_x509_certificate(tls.certificate.read_bytes()).serial_number


# --- refused at the door: the client says what, which, and what to do --------------------------------------------------------


def test_without_a_certificate_nothing_is_answered_and_the_client_says_why(place: Place) -> None:
    with (
        place.client(None) as client,
        pytest.raises(ConfigError, match=f"{place.address} speaks mutual TLS.*protheon worker --join") as info,
    ):
        client.info()
    assert info.type is OtherTransport  # no outage: waiting would not mend it


def test_a_certificate_of_another_authority_is_refused_by_both_ends(place: Place, tmp_path: Path) -> None:
    foreign = identity(authority(tmp_path), "nuc")
    with place.client(foreign) as client, pytest.raises(ConfigError, match=r"another authority than .*ca\.pem"):
        client.info()

    foreign.ca.write_bytes(place.authority.ca_pem)  # who trusts this cluster's master is still not trusted by it
    with place.client(foreign) as client, pytest.raises(ConfigError, match=r"does not accept this host's certificate.*another authority"):
        client.info()


def test_a_certificate_that_ran_out_is_refused_and_the_client_says_when(place: Place) -> None:
    place.clock.ahead = timedelta(days=-2)
    old = place.join("late")
    place.clock.ahead = timedelta()
    ended_at = x509.load_pem_x509_certificate(old.certificate.read_bytes()).not_valid_after_utc
    with place.client(old) as client, pytest.raises(ConfigError, match=f"ran out at {ended_at:%Y-%m-%d %H:%M} UTC.*To join again"):
        client.info()


def test_another_host_of_the_cluster_cannot_stand_in_for_the_master(place: Place) -> None:
    false_master, client_tls = place.join("false"), place.join("victim")
    with (
        BrokerThread(Runs(), ChunkFolder(place.home), "127.0.0.1", 0, tls=false_master) as false,
        BrokerClient(f"127.0.0.1:{false.port}", client_tls) as client,
        pytest.raises(ConfigError, match="is a host of this cluster, and not its master"),
    ):
        client.info()


def test_another_port_of_the_cluster_is_no_refusal_and_the_master_that_was_joined_is_named(place: Place) -> None:
    tls = place.join("wanderer")
    tls.note.write_bytes(msgspec.json.encode(Membership(master=place.address, host="wanderer", invite="i")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # as Dask's scheduler and the place where hosts join: no ALPN
    context.load_verify_locations(place.master.ca)
    context.load_cert_chain(place.master.certificate, place.master.key)

    class Hear(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as secured:
                secured.recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hear) as nearby, ThreadPoolExecutor(1) as pool:
        nearby.daemon_threads = True
        pool.submit(nearby.serve_forever)
        try:
            told = rf"is of this host's cluster, and not its master's gRPC address: .* joined the master at {place.address}"
            with BrokerClient(f"127.0.0.1:{nearby.server_address[1]}", tls) as client, pytest.raises(ConfigError, match=told):
                client.info()
        finally:
            nearby.shutdown()


def test_an_address_where_no_master_is_is_told_in_words(place: Place) -> None:
    tls = place.join("astray")
    tls.note.write_bytes(msgspec.json.encode(Membership(master="nuc:50051", host="astray", invite="i")))
    with socket.socket() as nobody:  # bound, so that nobody else is there, and never listening
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        for way in (tls, None):
            joined = "" if way is None else ". This host joined the master at nuc:50051"
            with BrokerClient(address, way) as client, pytest.raises(BrokerUnavailable) as caught:
                client.info()
            assert str(caught.value) == f"no master answers at {address}: Connection refused{joined}"


def test_a_master_whose_certificate_ran_out_is_named_as_that(place: Place, tmp_path: Path) -> None:
    clock = Clock(timedelta(days=-2))
    made = Authority.create(tmp_path, clock)
    late = identity(made, MASTER)
    clock.ahead = timedelta()
    with (
        BrokerThread(Runs(), ChunkFolder(place.home), "127.0.0.1", 0, tls=late) as server,
        BrokerClient(f"127.0.0.1:{server.port}", identity(made, "nuc")) as client,
        pytest.raises(ConfigError, match="not valid now: look at the clocks"),
    ):
        client.info()


def test_a_client_with_a_certificate_says_nothing_to_a_port_that_speaks_plaintext(place: Place) -> None:
    with (
        BrokerClient(place.plain_address, place.join("careful")) as client,
        pytest.raises(ConfigError, match=f"{place.plain_address} speaks plaintext.*--insecure"),
    ):
        client.info()


def test_a_host_that_has_joined_a_cluster_still_reaches_a_master_of_its_own_on_loopback(place: Place, tmp_path: Path) -> None:
    """As `protheon.connect` does: by its certificate first."""
    tls = place.join("laptop")
    for address in (place.address, place.plain_address):
        master, ledger_id = reached(Settings(home=str(tmp_path), tls_dir=str(tls.directory)), address)
        with master:
            assert ledger_id == "a-ledger"
    with pytest.raises(OtherTransport, match="speaks mutual TLS"):
        reached(Settings(home=str(tmp_path)), place.address)


def test_a_host_that_joined_signs_by_the_clusters_key_though_it_has_one_of_its_own(place: Place, tmp_path: Path) -> None:
    """`protheon demo` there made one."""
    tls, own = place.join("desktop"), read_key(make_key(tmp_path))
    for invite, key in (("", own), ("a1", KEY)):  # the master's own host is invited by nobody
        member = Membership(master=place.address, host="desktop", invite=invite)
        tls.note.write_bytes(msgspec.json.encode(member))
        master, _ = reached(Settings(home=str(tmp_path), tls_dir=str(tls.directory)), place.address)
        with master:
            assert master.key == key


def test_files_that_are_missing_are_named(place: Place, tmp_path: Path) -> None:
    with BrokerClient(place.address, TlsFiles(tmp_path)) as client, pytest.raises(MissingSetting, match=r"ca\.pem: No such file.*--join"):
        client.info()


# --- removed hosts -------------------------------------------------------------------------------------------------------------


def test_a_removed_host_is_refused_at_once_and_its_open_streams_end_within_seconds(place: Place) -> None:
    with place.client(place.join("gone")) as client, place.client(place.join("stays")) as other:
        views, others = client.watch(1), other.watch(1)
        next(views), next(others)
        ended: list[Exception] = []

        def listen() -> None:
            try:
                next(views)
            except NotAllowed as error:
                ended.append(error)

        listener = threading.Thread(target=listen)
        listener.start()
        place.authority.remove("gone")
        with pytest.raises(NotAllowed, match="host gone was removed from this cluster"):
            client.info()
        wait_until(lambda: ended, timeout_s=10)
        listener.join()
        with pytest.raises(NotAllowed, match="removed"):
            client.renew(certificates.make_request(certificates.make_key(), "gone"))
        assert other.info().broker_uuid == "a-uuid"
        others.close()
        assert {host.name for host in other.hosts().hosts if host.is_removed} >= {"gone"}


def test_a_host_that_joined_again_is_let_in_and_a_copy_of_its_old_certificate_is_not(place: Place, tmp_path: Path) -> None:
    before = place.join("twice")
    place.authority.remove("twice")
    again = identity(place.authority, "twice", tmp_path)
    with place.client(again) as client, place.client(before) as copy:
        assert client.info().broker_uuid == "a-uuid"
        with pytest.raises(NotAllowed, match="host twice was removed"):
            copy.info()


def test_where_the_list_of_hosts_cannot_be_read_nobody_is_let_in_and_nobody_is_called_removed(place: Place, tmp_path: Path) -> None:
    made = authority(tmp_path)
    tls = identity(made, "nuc")
    store = ChunkStore(tmp_path / "workspace", 1 << 30)
    desk = ClusterDesk(Settings(), Coordinator(Settings(), URL, "tls://127.0.0.1:9", store, uuid4(), 1), "tls://127.0.0.1:9", made, KEY)
    with (
        BrokerThread(place.runs, ChunkFolder(tmp_path), "127.0.0.1", 0, cluster=desk, tls=identity(made, MASTER)) as server,
        BrokerClient(f"127.0.0.1:{server.port}", tls) as client,
    ):
        assert client.info().broker_uuid == "a-uuid"
        hosts = made.directory / "hosts.json"
        before = hosts.read_bytes()
        hosts.write_text("{")
        with pytest.raises(BrokerUnavailable, match="cannot tell whom it removed"):  # a host waits for it; one that was removed ends
            client.info()
        hosts.write_bytes(before)
        assert client.info().broker_uuid == "a-uuid"


# --- certificates that are replaced -------------------------------------------------------------------------------------------


def test_a_host_renews_its_certificate_and_shows_the_new_one_while_its_streams_go_on(place: Place) -> None:
    tls = place.join("renews")
    with place.client(tls) as client:
        views = client.watch(1)
        next(views)
        client.submit(submission())
        before = place.runs.peers[-1].serial_no

        key = certificates.make_key()
        renewed = client.renew(certificates.make_request(key, "master"))  # the name that it asks for does not count
        replace_file(tls.key, certificates.key_to_pem(key))
        replace_file(tls.certificate, renewed)

        client.submit(submission())
        after = place.runs.peers[-1]
        assert after.serial_no == x509.load_pem_x509_certificate(renewed).serial_number != before
        assert (after.host, after.is_here) == ("renews", False)
        place.runs.story = [wire.RunView(1, wire.RunState.SUCCEEDED)]
        try:
            assert [view.state for view in views] == [wire.RunState.SUCCEEDED]  # on the connection from before
        finally:
            place.runs.story = [wire.RunView(1, wire.RunState.RUNNING)]


def test_a_master_shows_its_new_certificate_from_the_next_connection_on(place: Place) -> None:
    before = shown_by(place)
    with place.client(place.join("watcher")) as client:
        views = client.watch(1)
        next(views)
        key = certificates.make_key()
        renewed = place.authority.admit_master(certificates.make_request(key, MASTER), MASTER).certificate_pem
        replace_file(place.master.key, certificates.key_to_pem(key))
        replace_file(place.master.certificate, renewed)

        assert shown_by(place) == x509.load_pem_x509_certificate(renewed).serial_number != before
        assert client.info().broker_uuid == "a-uuid"
        views.close()


def shown_by(place: Place) -> int:
    """The serial number of the certificate that the master shows in a handshake."""
    context = ssl.create_default_context(cafile=str(place.master.ca))
    context.load_cert_chain(place.master.certificate, place.master.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = place.address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain, server_hostname=MASTER_NAME) as secure:
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
