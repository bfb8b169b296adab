"""Which master a host works for, and whether it can use the database that it is told: refused with words, before it takes work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import Enrolment
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import BrokerUnavailable, ConfigError, LedgerUnavailable, MissingSetting
from protheon_dask.ledger.migrate import migrate
from protheon_dask.ledger.server_process import free_port
from protheon_dask.run import enrolling, reaching
from protheon_dask.run.attaching import own_master
from protheon_dask.run.enrolling import Enrolled, enrol, with_agreed
from protheon_dask.run.reaching import Reach, Wanted, check_database, check_scheduler, listening_address, own_address, reach
from protheon_dask.run.versions import own_versions
from tests.fixtures.cluster import local_cluster
from tests.fixtures.postgres import fresh_database
from tests.fixtures.tls import authority, identity

HERE = Reach("127.0.0.1:50051", "nuc", None)
AWAY = Reach("10.9.8.7:50051", "nuc", None)


@pytest.fixture(scope="module")
def master(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A running master: its gRPC address, and its database."""
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database(postgres_url))
        cluster = stack.enter_context(local_cluster(tmp_path_factory.mktemp("master"), url, 1, lease_s=33, renew_s=3))
        yield cluster.client.address, url


@pytest.fixture
def broker(master: tuple[str, str]) -> Iterator[BrokerClient]:
    with BrokerClient(master[0]) as client:
        yield client


# --- which master ---------------------------------------------------------------------------------------------------------


def test_a_master_on_this_machine_needs_nothing(tmp_path: Path) -> None:
    at = reach(Settings(home=str(tmp_path)), Wanted(master="localhost", host="nuc"))
    assert at == Reach("localhost:50051", "nuc", None)
    assert at.is_here


def test_plaintext_to_another_host_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path))
    with pytest.raises(ConfigError, match=r"on another host.*join by a token.*or give --insecure: .*anyone.*runs code as you"):
        reach(settings, Wanted(master="10.9.8.7:50051"))
    assert reach(settings, Wanted(master="10.9.8.7", host="nuc", insecure=True)) == Reach("10.9.8.7:50051", "nuc", None, is_insecure=True)


def test_a_name_that_nobody_knows_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the name nuc\.\.lan is not known here"):
        reach(Settings(home=str(tmp_path)), Wanted(master="nuc..lan"))  # no resolver is asked for such a one


def test_a_host_that_has_joined_knows_its_master_and_its_name(tmp_path: Path) -> None:
    tls = identity(authority(tmp_path / "master"), "nuc", tmp_path / "home")
    tls.note.write_text(json.dumps({"master": "10.9.8.7:50051", "host": "nuc"}))
    settings = Settings(home=str(tmp_path / "home"))
    assert reach(settings, Wanted()) == Reach("10.9.8.7:50051", "nuc", tls)
    assert own_master(settings) == "10.9.8.7:50051"
    assert reach(settings, Wanted(master="[fd00::1]:7")) == Reach("[fd00::1]:7", "nuc", tls)
    with pytest.raises(ConfigError, match="has joined as nuc, not other"):
        reach(settings, Wanted(host="other"))


def test_nobody_says_which_master(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which master"):
        reach(Settings(home=str(tmp_path)), Wanted())


@pytest.mark.parametrize("address", ["10.0.0.1:x", "http://nuc:1", "nuc:1:2", "ann@nuc", "nuc/x", "nuc:70000"])
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a master"):
        reach(Settings(home=str(tmp_path)), Wanted(master=address, insecure=True))


@pytest.mark.parametrize(
    ("everywhere", "with_tls", "insecure", "listens"),
    [
        (True, True, False, "192.0.2.7"),
        (True, False, True, "192.0.2.7"),
        (True, False, False, "127.0.0.1"),  # nobody has said that plaintext may leave the machine
        (False, True, False, "127.0.0.1"),
    ],
)
def test_workers_beside_their_master_listen_where_other_hosts_reach_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, everywhere: bool, with_tls: bool, insecure: bool, listens: str
) -> None:
    monkeypatch.setattr(reaching, "address_for_all", lambda: "192.0.2.7")
    told = Enrolled(Settings(), "tls://127.0.0.1:1", is_scheduler_everywhere=everywhere)
    at = Reach("127.0.0.1:50051", "nuc", TlsFiles(tmp_path) if with_tls else None, insecure)
    assert listening_address(told, at) == listens


# --- what the master says -------------------------------------------------------------------------------------------------


def test_a_host_works_with_the_masters_settings_and_its_own_database(broker: BrokerClient, master: tuple[str, str]) -> None:
    enrolled = enrol(Settings(batch_lines=7, lease_s=50), broker, "nuc", master[1])
    assert (enrolled.settings.lease_s, enrolled.settings.renew_s, enrolled.settings.batch_lines) == (33, 3, Settings().batch_lines)
    assert (enrolled.settings.database_url, enrolled.key, enrolled.is_told_database) == (master[1], None, False)
    assert enrolled.warnings == ()
    check_scheduler(enrolled.scheduler_address)
    assert own_address(enrolled.scheduler_address) == "127.0.0.1"


def test_without_a_certificate_no_secret_is_told(broker: BrokerClient) -> None:
    with pytest.raises(MissingSetting, match="gives no database URL to a host that shows no certificate: give one by --into"):
        enrol(Settings(), broker, "nuc")


def test_another_version_of_protheon_is_refused_by_name(broker: BrokerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "__version__", "0.0.1")
    with pytest.raises(ConfigError, match=r"protheon-dask is 0\.0\.1 here and .* on the master: install the same on host nuc"):
        enrol(Settings(), broker, "nuc", "postgresql://x/y")


def test_settings_of_a_newer_master_that_are_unknown_here_are_left_out() -> None:
    told = Enrolment("tcp://x:1", "0", own_versions(), {"lease_s": "45", "of_tomorrow": "1"})
    assert with_agreed(Settings(), told).lease_s == 45
    with pytest.raises(ConfigError, match="lease_s"):
        with_agreed(Settings(), replace(told, settings={"lease_s": "1"}))


# --- the database ---------------------------------------------------------------------------------------------------------


def enrolled(url: str, *, told: bool = False) -> Enrolled:
    return Enrolled(Settings(database_url=url), "tcp://127.0.0.1:1", is_told_database=told)


def test_the_masters_ledger_is_the_right_one(broker: BrokerClient, master: tuple[str, str]) -> None:
    check_database(enrolled(master[1]), broker, HERE)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "/run/postgresql", "db.example,::1"])
def test_a_url_of_the_masters_own_loopback_means_another_machine(broker: BrokerClient, host: str) -> None:
    with pytest.raises(ConfigError, match=r"an address of its own that means this machine here: start it with --into"):
        check_database(enrolled(f"host={host} dbname=games user=ann password=geheim", told=True), broker, AWAY)


def test_another_ledger_is_refused(broker: BrokerClient, postgres_url: str) -> None:
    with fresh_database(postgres_url) as other:
        migrate(other)
        with pytest.raises(ConfigError, match="leads to another ledger than the master"):
            check_database(enrolled(other), broker, HERE)


def test_a_role_without_rights_is_told_its_grants(broker: BrokerClient, master: tuple[str, str]) -> None:
    execute(master[1], "CREATE ROLE poor_host LOGIN")
    try:
        with pytest.raises(ConfigError, match="GRANT USAGE ON SCHEMA protheon TO"):
            check_database(enrolled(master[1].replace("//postgres@", "//poor_host@")), broker, HERE)
    finally:
        execute(master[1], "DROP ROLE poor_host")


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql.encode())


def test_a_database_that_does_not_answer_is_waited_for(broker: BrokerClient) -> None:
    with pytest.raises(LedgerUnavailable):
        check_database(enrolled(f"postgresql://ann@127.0.0.1:{free_port()}/games"), broker, HERE)


def test_a_scheduler_that_does_not_answer_is_waited_for() -> None:
    with pytest.raises(BrokerUnavailable, match=r"the Dask scheduler at tcp://127\.0\.0\.1:"):
        check_scheduler(f"tcp://127.0.0.1:{free_port()}")
