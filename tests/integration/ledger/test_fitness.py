"""What a real PostgreSQL says of itself, of a role's rights and of the connections that are left."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.fitness import ServerFacts, server_facts, server_way
from protheon_dask.ledger.migrate import migrations
from tests.fixtures.own_postgres import OwnServer
from tests.fixtures.postgres import find_test_binaries, scratch_dir
from tests.fixtures.roles import Role, role_of


def facts(url: str) -> ServerFacts:
    with opened(url, application="protheon-doctor") as conn:
        return server_facts(conn)


@pytest.fixture
def stranger(ledger_database: str) -> Iterator[Role]:
    """A role that may connect to a ledger's database, and nothing else."""
    with role_of(ledger_database) as role:
        yield role


def test_an_owner_may_do_everything_in_an_empty_database_and_in_one_with_a_ledger(database: str, ledger_database: str) -> None:
    empty, there = facts(database), facts(ledger_database)
    assert (empty.has_ledger, empty.migration, empty.may_create_schema, empty.may_create_table) == (False, 0, True, True)
    assert (there.has_ledger, there.migration, there.lacks, there.closed) == (True, migrations()[-1][0], (), ())
    assert there.newest_migration == there.migration
    assert there.is_superuser
    assert not there.is_standby


def test_a_role_without_rights_is_told_of_by_each_that_it_lacks(stranger: Role) -> None:
    bare = facts(stranger.url)
    assert (bare.may_create_schema, bare.is_superuser) == (False, False)
    assert bare.lacks, "it may not even read which migrations ran"
    stranger.grant("GRANT USAGE ON SCHEMA protheon TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA protheon TO {0}")
    assert "run" in facts(stranger.url).lacks
    stranger.grant("GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA protheon TO {0}")
    granted = facts(stranger.url)
    assert (granted.lacks, granted.closed, granted.migration) == ((), (), migrations()[-1][0])


def test_tables_of_runs_that_the_role_may_not_fill_are_named(stranger: Role) -> None:
    stranger.grant(
        """
        GRANT USAGE ON SCHEMA protheon TO {0}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA protheon TO {0};
        CREATE SCHEMA app; CREATE TABLE app.closed (n bigint); CREATE TABLE app.open (n bigint);
        GRANT USAGE ON SCHEMA app TO {0}; GRANT SELECT, INSERT ON app.open TO {0}; GRANT SELECT ON app.closed TO {0};
        INSERT INTO protheon.run (paths, pipeline_name, pipeline_version, ephemeral, checksum) VALUES ('{{a}}', 'p', '1', false, false);
        INSERT INTO protheon.pipeline (run_id, name, version, reference, object, signature, code_hash, tables, versions, options)
        SELECT id, 'p', '1', '', '', '', '', '[{{"name": "app.closed"}}, {{"name": "app.open"}}, {{"name": "app.none"}}]', '', ''
          FROM protheon.run
        """
    )
    assert facts(stranger.url).closed == ("app.closed",)


def test_what_a_role_may_make_is_asked_of_the_catalog(stranger: Role) -> None:
    stranger.grant("REVOKE ALL ON SCHEMA public FROM public; REVOKE TEMP ON DATABASE {1} FROM public")
    shut = facts(stranger.url)
    assert (shut.may_create_table, shut.may_create_temporary) == (False, False)
    stranger.grant("GRANT CREATE, USAGE ON SCHEMA public TO {0}; GRANT TEMP, CREATE ON DATABASE {1} TO {0}")
    free = facts(stranger.url)
    assert (free.may_create_table, free.may_create_temporary, free.may_create_schema, free.schema_name) == (True, True, True, "public")


def test_a_role_that_only_reads_by_default_is_told_of(stranger: Role) -> None:
    stranger.grant("ALTER ROLE {0} SET default_transaction_read_only = on")
    assert facts(stranger.url).is_read_only


def test_connections_are_counted_apart_by_whose_they_are(stranger: Role, ledger_database: str) -> None:
    stranger.grant("ALTER ROLE {0} CONNECTION LIMIT 9")
    before = facts(stranger.url)
    assert (before.role_limit, before.database_limit, before.in_use_role, before.ours) == (9, -1, 0, 0)
    with opened(stranger.url, application="protheon-worker"), psycopg.connect(stranger.url), psycopg.connect(ledger_database):
        now = facts(stranger.url)
        assert (now.in_use_role, now.ours, now.in_use_database - before.in_use_database) == (2, 1, 3)
        assert now.in_use >= 3


def test_a_small_server_says_how_small_it_is() -> None:
    with scratch_dir() as root:
        server = OwnServer(
            find_test_binaries(), root, {"max_connections": "14", "superuser_reserved_connections": "2", "max_wal_senders": "0"}
        )
        server.make()
        server.start()
        try:
            found = facts(server.url())
            assert (found.max_connections, found.reserved >= 2) == (14, True)
        finally:
            server.stop()


def test_the_way_to_the_server_and_its_clock_are_measured(database: str) -> None:
    began_s = time.perf_counter()
    with opened(database, application="protheon-doctor") as conn:
        way = server_way(conn)
    took_s = time.perf_counter() - began_s
    assert 0 < way.latency_s < took_s
    assert way.bytes_per_s > 1_000_000
    assert abs(way.clock_offset_s) <= way.clock_error_s + 0.01, "it is the same machine's clock"
    assert way.clock_error_s < took_s


def test_asking_writes_nothing(ledger_database: str) -> None:
    with opened(ledger_database, application="protheon-doctor") as conn, conn.transaction():
        server_facts(conn)
        server_way(conn)
        assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,), "a transaction that writes has a number"
