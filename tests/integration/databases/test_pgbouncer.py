"""Through PgBouncer in transaction mode: a load, a killed and a frozen worker, a pooler that dies; the lead goes to the server itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from protheon_dask.errors import ConfigError, LedgerUnavailable
from protheon_dask.ledger.connect import check_direct, connect
from protheon_dask.ledger.migrate import migrate
from tests.acceptance.conftest import Gate, World, numbers, write_numbers, write_pipeline
from tests.fixtures import pgbouncer as pooler
from tests.fixtures.cluster import ask, local_cluster, wait_until
from tests.fixtures.pgbouncer import PgBouncer, pgbouncer
from tests.fixtures.postgres import fresh_database, scratch_dir

N_LINES = 3_000
SETTINGS = {"lease_s": 3, "renew_s": 1, "exit_grace_s": 2, "stall_s": 10}
pytestmark = pytest.mark.skipif(pooler.BINARY is None, reason="no PgBouncer here: apt-get install pgbouncer")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with scratch_dir() as root:
        yield root


@pytest.fixture(scope="module")
def bouncer(postgres_url: str, scratch: Path) -> Iterator[PgBouncer]:
    with pgbouncer(postgres_url, scratch / "transaction") as made:
        yield made


@pytest.fixture(scope="module")
def pooled(postgres_url: str, bouncer: PgBouncer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster whose workers and reports go through the pooler; its own questions go to the server."""
    directory = tmp_path_factory.mktemp("pooled")
    with (
        fresh_database(postgres_url) as url,
        local_cluster(directory / "home", bouncer.url(url), workers=2, direct_url=url, **SETTINGS) as cluster,
    ):
        yield World(cluster, url, directory)


@contextmanager
def copies_held_up(url: str, table: str) -> Iterator[None]:
    """Rows cannot be written to the table while this is open: a COPY that has begun waits in the middle."""
    with psycopg.connect(url) as conn:
        conn.execute(f"LOCK TABLE public.{table} IN SHARE MODE".encode())
        yield


def busy_worker(world: World, bouncer: PgBouncer) -> int:
    """Process id of a worker whose chunk is in the middle of a COPY, whichever it is."""
    copying = (
        "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'COPY%%' AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    wait_until(lambda: world.ask(copying)[0][0] == 2)
    return world.cluster.worker_pids()[0][1]


def make_table(world: World, name: str) -> None:
    with psycopg.connect(world.url, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE public.{name} (n bigint, _protheon_chunk bigint)".encode())


def test_a_worker_killed_in_the_middle_of_a_copy_loses_and_doubles_nothing(pooled: World, bouncer: PgBouncer, tmp_path: Path) -> None:
    make_table(pooled, "killed")
    pipeline, source = write_pipeline(tmp_path, "killed"), write_numbers(tmp_path / "n.txt", N_LINES)
    with copies_held_up(pooled.url, "killed"):
        run_id = pooled.submit(pipeline, source, chunk_lines=500).run_id
        victim = busy_worker(pooled, bouncer)
        wait_until(lambda: {"protheon-worker", "protheon-lease"} <= bouncer.clients())
        assert "protheon-coordinator" not in bouncer.clients()
        os.kill(victim, signal.SIGKILL)
    done = pooled.finish(run_id)
    assert (done.state, done.loaded) == ("succeeded", N_LINES)
    assert numbers(pooled.url, "killed") == list(range(N_LINES))
    lost = [ending for story in pooled.attempts(run_id).values() for ending in story if ending[0] != "succeeded"]
    assert lost == [("crashed", "crash")]
    assert pooled.findings(run_id) == ()


@pytest.mark.slow
def test_a_worker_frozen_in_the_middle_of_a_copy_is_expired_and_writes_nothing_when_thawed(
    pooled: World, bouncer: PgBouncer, tmp_path: Path
) -> None:
    make_table(pooled, "frozen")
    pipeline, source = write_pipeline(tmp_path, "frozen"), write_numbers(tmp_path / "n.txt", N_LINES)
    with copies_held_up(pooled.url, "frozen"):
        run_id = pooled.submit(pipeline, source, chunk_lines=500).run_id
        frozen = busy_worker(pooled, bouncer)
        os.kill(frozen, signal.SIGSTOP)
    try:
        done = pooled.finish(run_id)
    finally:
        with suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)
    assert done.state == "succeeded"
    lost = [ending for story in pooled.attempts(run_id).values() for ending in story if ending[0] != "succeeded"]
    assert lost == [("expired", "loss")]
    assert numbers(pooled.url, "frozen") == list(range(N_LINES))
    assert pooled.findings(run_id) == ()


def test_a_pooler_that_dies_in_the_middle_is_waited_for_at_no_cost(pooled: World, bouncer: PgBouncer, tmp_path: Path, gate: Gate) -> None:
    make_table(pooled, "restarted")
    pipeline = write_pipeline(tmp_path, "restarted", gate.body(2, 500))
    run_id = pooled.submit(pipeline, write_numbers(tmp_path / "n.txt", N_LINES), chunk_lines=500).run_id
    pooled.wait_chunks_done(run_id, 2)
    in_hand = "SELECT count(*) FROM protheon.task WHERE state = 'running'"
    wait_until(lambda: pooled.ask(in_hand)[0][0] > 0)  # nothing could be claimed without a pooler
    bouncer.stop()
    gate.open()
    with pytest.raises(LedgerUnavailable):
        pooled.cluster.client.get(run_id)
    bouncer.start()
    done = pooled.finish(run_id)
    assert (done.state, done.loaded) == ("succeeded", N_LINES)
    assert numbers(pooled.url, "restarted") == list(range(N_LINES))
    assert {cost for story in pooled.attempts(run_id).values() for _, cost in story} == {"nothing"}
    assert pooled.findings(run_id) == ()


def test_nothing_of_a_session_stays_behind_in_the_pool(pooled: World) -> None:
    left = (
        "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database"
        " WHERE datname = current_database()) AND classid <> 5263951),"
        " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%%'),"
        " (SELECT count(*) FROM pg_class WHERE relname LIKE 'protheon_stage%%')"
    )
    wait_until(lambda: pooled.ask(left) == [(0, 0, 0)])


def test_migrations_need_no_session(database: str, bouncer: PgBouncer) -> None:
    assert migrate(bouncer.url(database))
    assert migrate(bouncer.url(database)) == []
    assert ask(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 5263951 AND objid = 2") == [(0,)]


@pytest.mark.slow
def test_the_lead_through_a_pooler_in_transaction_mode_is_refused_with_the_way_on(
    ledger_database: str, bouncer: PgBouncer, tmp_path: Path
) -> None:
    with (
        pytest.raises(ConfigError, match="give the server's own address as direct_url"),
        local_cluster(tmp_path / "home", bouncer.url(ledger_database), workers=1),
    ):
        pass
    assert ask(ledger_database, "SELECT epoch FROM protheon.leadership") == [(0,)]


@pytest.mark.parametrize(("pool_size", "round_robin"), [(1, 0), (20, 0), (1, 1), (2, 1), (20, 1)])
def test_a_pooler_in_transaction_mode_is_seen_however_it_chooses_its_servers(
    postgres_url: str, database: str, scratch: Path, pool_size: int, round_robin: int
) -> None:
    directory = scratch / f"t{pool_size}{round_robin}"
    with pgbouncer(postgres_url, directory, pool_size=pool_size, round_robin=round_robin) as made:
        url = made.url(database)
        others = [connect(url, application="test") for _ in range(min(3, pool_size))]
        for other in others:  # as many servers as there can be, all of them idle then
            other.execute("BEGIN")
        for other in others:
            other.execute("COMMIT")
            other.close()
        with closing(connect(url, application="test")) as conn, pytest.raises(ConfigError, match="transaction mode"):
            check_direct(conn, url)


def test_a_pooler_in_session_mode_may_hold_the_lead(postgres_url: str, database: str, scratch: Path) -> None:
    with (
        pgbouncer(postgres_url, scratch / "session", mode="session") as made,
        closing(connect(made.url(database), application="t")) as conn,
    ):
        check_direct(conn, made.url(database))


def test_a_server_without_a_pooler_may_hold_the_lead(database: str) -> None:
    with closing(connect(database, application="test")) as conn:
        check_direct(conn, database)
