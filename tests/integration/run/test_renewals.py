"""Certificates are renewed by threads that stay alive whatever the disk or the clock does, and do not hurry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import HostList
from protheon_dask.broker.peers import Peer
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.config import Settings
from protheon_dask.errors import TransientError
from protheon_dask.run import api, attendance, standing
from protheon_dask.run.attendance import Attendance
from protheon_dask.run.cluster_desk import ClusterDesk
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.reaching import Reach
from protheon_dask.run.trust import certificates, founding
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.membership import identity_of, own_key
from protheon_dask.run.trust.owner_files import replace_file
from protheon_dask.run.trust.removed import REMOVED_FILE
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.fixtures.broker import ChunkFolder, Runs
from tests.fixtures.cluster import wait_until
from tests.fixtures.tls import MASTER, identity


def behind(hours: int) -> Callable[[], datetime]:
    """The clock of a machine."""
    return lambda: datetime.now(UTC) - timedelta(hours=hours)


class CountingDesk(ClusterDesk):
    """Counts what hosts ask for."""

    n_renewals = n_looks = 0

    def renew(self, request_pem: bytes, peer: Peer) -> bytes:
        self.n_renewals += 1
        return super().renew(request_pem, peer)

    def hosts(self) -> HostList:
        self.n_looks += 1
        return super().hosts()


def test_a_host_whose_clock_is_hours_ahead_renews_once_and_not_at_each_look_also_where_it_cannot_note_who_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "ASK_FIRST_S", 0.02)
    authority = Authority.create(tmp_path, behind(10))
    tls, _ = identity(authority, "ahead"), identity(authority, "gone")
    authority.remove("gone")
    (tls.directory / REMOVED_FILE).mkdir()
    store = ChunkStore(tmp_path / "workspace", 1 << 30)
    coordinator = Coordinator(Settings(), "postgresql://db.example/loads", "tls://127.0.0.1:9", store, uuid4(), 1)
    desk = CountingDesk(Settings(), coordinator, "tls://127.0.0.1:9", authority, b"k" * 32)
    said: list[str] = []
    with (
        BrokerThread(Runs(), ChunkFolder(tmp_path), "127.0.0.1", 0, cluster=desk, tls=identity(authority, MASTER)) as server,
        BrokerClient(f"127.0.0.1:{server.port}", tls) as broker,
        Attendance(broker, Reach(broker.address, "ahead", tls), said.append) as at,
    ):
        wait_until(lambda: desk.n_looks > 5, timeout_s=60)
        assert desk.n_renewals == 1
        assert at.trouble == ""  # the master answers
    coordinator.dask.close()
    told = ["this host's workers cannot be told whom the master has removed", "the certificate was renewed"]
    assert [text.partition(",")[0] for text in said] == told


def test_a_master_that_cannot_write_its_certificate_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "RENEW_LOOK_S", 0.02)
    tls = founding.init(Settings(home=str(tmp_path)), "nuc", []).tls
    csr = certificates.make_request(own_key(tls), "nuc")
    replace_file(tls.certificate, Authority.open(tmp_path, behind(9)).admit_master(csr, "nuc").certificate_pem)
    before = identity_of(tls).until_at
    effective = api.read_settings({"home": str(tmp_path)})
    database = api.resolve_database(effective, "postgresql://ann@nuc/games", embedded=False)
    said: list[str] = []
    master = standing.StandingMaster(effective, database, standing.MasterWish(), on_event=said.append)
    in_the_way = tls.directory / "host.pem.new"
    in_the_way.mkdir()  # what it writes by cannot be opened, as on a disk that is full
    thread = threading.Thread(target=master._keep_renewed)
    thread.start()
    try:
        wait_until(lambda: len(said) > 1, timeout_s=30)
        in_the_way.rmdir()
        wait_until(lambda: identity_of(tls).until_at > before + timedelta(hours=8), timeout_s=30)
    finally:
        master._closing.set()
        thread.join()
    assert "could not be renewed, and will be tried again" in said[0]


def test_an_authority_that_cannot_be_written_says_so_and_is_as_it_was(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    in_the_way = authority.directory / "invites.json.new"
    in_the_way.mkdir()
    with pytest.raises(TransientError, match="cannot be written"):
        authority.invite(60.0, 1, ["nuc:50052"])
    in_the_way.rmdir()
    assert authority.invite(60.0, 1, ["nuc:50052"])
