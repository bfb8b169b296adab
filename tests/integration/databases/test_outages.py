"""A server in need, in the middle of a load: the run waits, says why, goes on by itself, and nothing is charged for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import Gate, World
from tests.fixtures.broker_http import code_of, told
from tests.fixtures.cluster import local_cluster, wait_until
from tests.fixtures.own_postgres import MAY_MOUNT, PASSWORD, OwnServer, small_disk
from tests.integration.databases.outages import assert_http_tells, assert_reports_tell, assert_whole, begin, kill_at_work, wait_reason

WITH_CRASH = pytest.mark.parametrize("with_crash", [False, pytest.param(True, marks=pytest.mark.slow)])
"""Alone, and at the same time as a worker that dies in the middle of a chunk."""
SERVER_SETTINGS = {"max_connections": "24", "synchronous_commit": "on"}


@pytest.fixture(scope="module")
def served(own_server: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A cluster over the module's own server, as a role that is no superuser."""
    own_server.make_role("loader")
    own_server.execute("CREATE DATABASE shop OWNER loader")
    directory = tmp_path_factory.mktemp("served")
    url = own_server.url("shop", "loader", PASSWORD)
    with local_cluster(directory / "home", url, workers=2, lease_s=6, renew_s=1, exit_grace_s=2, stall_s=20) as cluster:
        yield World(cluster, own_server.url("shop"), directory)


@pytest.mark.parametrize(
    ("how", "with_crash"),
    [
        (signal.SIGINT, False),
        (signal.SIGKILL, True),
        pytest.param(signal.SIGQUIT, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGQUIT, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, False, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_goes_and_comes_back_is_waited_for(
    served: World, own_server: OwnServer, gate: Gate, tmp_path: Path, how: signal.Signals, with_crash: bool
) -> None:
    """Stopped fast, at once, or with its postmaster killed; with_crash: a worker dies at the same time, in the middle of a chunk."""
    name = f"stopped_by_{how.name.lower()}{'_with_crash' if with_crash else ''}"
    run_id = begin(served, name, gate, tmp_path)
    if with_crash:
        kill_at_work(served, run_id)
    wait_until(lambda: (now := told(served.cluster, "/metrics")) and now["lines_total"] >= 1_000)
    own_server.signal(how)
    gate.open()
    wait_reason(served, run_id, "does not answer")
    if how is signal.SIGINT and not with_crash:
        assert_reports_tell(served, run_id, "does not answer")
        assert_http_tells(served)
    own_server.start()
    assert_whole(served, served.finish(run_id), name, n_crashes=int(with_crash))
    wait_until(lambda: code_of(served.cluster, "/healthz") == 200)


@pytest.mark.slow
def test_commits_that_a_crash_of_the_server_has_lost_are_loaded_again(
    served: World, own_server: OwnServer, gate: Gate, tmp_path: Path
) -> None:
    """synchronous_commit = off: rows and completion are lost together. Who had said "done" is a loss, found when its lease runs out."""
    own_server.execute("ALTER DATABASE shop SET synchronous_commit = off")
    run_id = begin(served, "forgotten", gate, tmp_path)
    gate.open()
    served.wait_chunks_done(run_id, 4)
    own_server.signal(signal.SIGQUIT)
    own_server.start()
    assert_whole(served, served.finish(run_id), "forgotten", costs={"loss"})
    own_server.execute("ALTER DATABASE shop RESET synchronous_commit")


@pytest.mark.slow
@pytest.mark.skipif(not MAY_MOUNT, reason="only root on Linux can make a small file system")
@WITH_CRASH
def test_a_full_disk_is_waited_for_until_there_is_room(
    served: World, own_server: OwnServer, gate: Gate, tmp_path: Path, with_crash: bool
) -> None:
    name = "full_disk_with_crash" if with_crash else "full_disk"
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(own_server.root, 1 << 20))
        own_server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'", "GRANT CREATE ON TABLESPACE small TO loader")
        stack.callback(own_server.execute, f"DROP TABLE public.{name}", "DROP TABLESPACE small", database="shop")
        own_server.execute(
            f"CREATE TABLE public.{name} (n bigint, _protheon_chunk bigint) TABLESPACE small",
            f"ALTER TABLE public.{name} OWNER TO loader",
            database="shop",
        )
        run_id = begin(served, name, gate, tmp_path)
        if with_crash:
            kill_at_work(served, run_id)
        ballast = disk.parent / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                continue
        gate.open()
        told = wait_reason(served, run_id, "the disk of the PostgreSQL server is full")
        assert "make room there" in told
        assert "SQLSTATE 53100" in told
        if not with_crash:
            assert_reports_tell(served, run_id, "the disk of the PostgreSQL server is full")
        ballast.unlink()
        assert_whole(served, served.finish(run_id), name, n_crashes=int(with_crash))


@pytest.mark.slow
@WITH_CRASH
def test_a_server_without_a_connection_left_is_waited_for(
    served: World, own_server: OwnServer, gate: Gate, tmp_path: Path, with_crash: bool
) -> None:
    name = "crowded_with_crash" if with_crash else "crowded"
    run_id = begin(served, name, gate, tmp_path)
    if with_crash:
        kill_at_work(served, run_id)
    crowd: list[psycopg.Connection] = []
    with ExitStack() as stack:
        with psycopg.connect(own_server.url("shop"), autocommit=True) as superuser:
            superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'protheon-%'")
            while True:  # until the server has no more
                try:
                    crowd.append(stack.enter_context(psycopg.connect(own_server.url("shop", "loader", PASSWORD), autocommit=True)))
                except psycopg.OperationalError:
                    if _is_ours_out(superuser):
                        break
        gate.open()
        told = wait_reason(served, run_id, "PostgreSQL has no connection left")
        assert "max_connections" in told
    assert_whole(served, served.finish(run_id), name, n_crashes=int(with_crash))


def _is_ours_out(superuser: psycopg.Connection) -> bool:
    """None of the cluster's connections is left."""
    found = superuser.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'protheon-%'").fetchone()
    if found == (0,):
        return True
    superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'protheon-%'")
    return False


@pytest.mark.slow
def test_a_server_that_only_reads_for_a_while_is_waited_for(served: World, own_server: OwnServer, gate: Gate, tmp_path: Path) -> None:
    """As after a switch-over to a standby that is promoted a moment later."""
    run_id = begin(served, "demoted", gate, tmp_path)
    own_server.execute("ALTER DATABASE shop SET default_transaction_read_only = on")
    own_server.signal(signal.SIGINT)
    own_server.start()
    gate.open()
    assert "give the address of the primary" in wait_reason(served, run_id, "only reads")
    with psycopg.connect(own_server.url("postgres"), autocommit=True) as conn:
        conn.execute("ALTER DATABASE shop RESET default_transaction_read_only")
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'protheon-%'")
    done = served.finish(run_id)
    assert_whole(served, done, "demoted")
