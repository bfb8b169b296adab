"""What a role may not do, and what a role or a database has set, neither stops a load nor changes a row of it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.ledger.migrate import grants, migrate
from protheon_dask.run import api
from tests.acceptance.conftest import World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import local_cluster
from tests.fixtures.own_postgres import PASSWORD, OwnServer

ODD_SETTINGS = {
    "statement_timeout": "'400ms'",
    "lock_timeout": "'100ms'",
    "idle_in_transaction_session_timeout": "'300ms'",
    "search_path": "''",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kathmandu'",
    "bytea_output": "escape",
    "row_security": "off",
    "synchronous_commit": "off",
    "extra_float_digits": "-3",
    "default_transaction_isolation": "serializable",
    "enable_seqscan": "off",
    "default_transaction_deferrable": "on",
}
"""Each has its meaning for a person's queries; transaction_timeout is added where the server has it."""

PIPELINE = """
import protheon_dask as protheon

T = protheon.Table(
    name="public.odd", provenance=True, indexes=(("day",),),
    columns=tuple(protheon.Column(*column.split()) for column in ("n bigint", "day date", "raw bytea", "text text")),
)

@protheon.pipeline(version="1", tables=[T])
def odd(line: bytes):
    import datetime
    n = int(line)
    return (n, datetime.date(2026, 2, 3), bytes([n % 256, 92]), "\\u6771\\u4eac \\\\x41 '")
"""


def set_oddly(server: OwnServer, role: str) -> None:
    """Give a role each odd setting in the database of its name."""
    settings = ODD_SETTINGS | ({"transaction_timeout": "'400ms'"} if server.binaries.major >= 17 else {})
    server.execute(*(f"ALTER ROLE {role} IN DATABASE {role} SET {name} = {value}" for name, value in settings.items()))


@pytest.fixture(scope="module")
def server(own_server: OwnServer) -> OwnServer:
    for role in ("humble", "odd"):
        own_server.make_role(role)
    own_server.execute("CREATE DATABASE humble", "CREATE DATABASE odd OWNER odd")
    set_oddly(own_server, "odd")
    return own_server


@pytest.mark.slow
def test_a_role_that_may_not_create_is_told_the_grants_and_loads_with_them(server: OwnServer, tmp_path: Path) -> None:
    url, admin = server.url("humble", "humble", PASSWORD), server.url("humble")
    with pytest.raises(ConfigError, match="the database role may not make, or use, Protheon's ledger") as refused:
        migrate(url)
    assert str(refused.value).endswith(grants('"humble"'))

    migrate(admin)
    with pytest.raises(ConfigError, match="the database role may not make, or use"):
        migrate(url)
    server.execute(*str(refused.value).rpartition("and then: ")[2].split(";")[:-1], database="humble")
    assert migrate(url) == []

    server.execute(
        "CREATE TABLE public.humble_numbers (n bigint, _protheon_chunk bigint)",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "GRANT INSERT ON public.humble_numbers TO humble",
        "CREATE TABLE public.docs (load_id bigint, line_no bigint, doc jsonb, PRIMARY KEY (load_id, line_no))",
        "GRANT SELECT, INSERT ON public.docs TO humble",
        database="humble",
    )
    pipeline = write_pipeline(tmp_path, "humble_numbers")
    with local_cluster(tmp_path / "home", url, workers=1) as cluster:
        world = World(cluster, url, tmp_path)
        done = world.load(pipeline, write_numbers(tmp_path / "n.txt", 500), chunk_lines=100)
        assert (done.state, done.loaded) == ("succeeded", 500)
        assert numbers(admin, "humble_numbers") == list(range(500))
        assert world.findings(done.run) == ()
        done = world.load("jsonl", write_numbers(tmp_path / "m.jsonl", 7), table="public.docs")
        assert (done.state, done.loaded) == ("succeeded", 7)
        assert [notice for notice in done.notices if "public.docs_with_path" in notice]
        with pytest.raises(ConfigError, match=r"lacks a right"):
            world.load(write_pipeline(tmp_path, "another"), tmp_path / "n.txt")
        assert_no_password(tmp_path / "home", admin)


def assert_no_password(home: Path, admin: str) -> None:
    """Neither in a log or another file of home but the keys', nor in a row of the ledger, nor in a command line."""
    import psutil

    guilty = [path for path in home.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]
    with psycopg.connect(admin, autocommit=True) as conn:
        for (table,) in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'protheon'").fetchall():
            query = f"SELECT count(*) FROM protheon.{table} AS t WHERE t::text LIKE '%s3cr3t%'"
            guilty += [table for (n,) in conn.execute(query.encode()).fetchall() if n]
    for process in psutil.Process().children(recursive=True):
        try:
            guilty += [process for word in process.cmdline() if "s3cr3t" in word]
        except psutil.Error:
            continue
    assert guilty == []


@pytest.mark.slow  # on the newest server the same settings are a part of test_versions
def test_no_setting_of_a_role_ends_a_load_or_changes_a_value(server: OwnServer, tmp_path: Path) -> None:
    url, admin = server.url("odd", "odd", PASSWORD), server.url("odd")
    server.execute(
        "CREATE TABLE public.odd (n bigint, day date, raw bytea, text text, _protheon_chunk bigint)",
        "ALTER TABLE public.odd OWNER TO odd",
        # one COPY of 200 rows takes 0.6 s, longer than statement_timeout and transaction_timeout
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.003); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON public.odd FOR EACH ROW EXECUTE FUNCTION public.slow()",
        database="odd",
    )
    path = tmp_path / "odd.py"
    path.write_text(PIPELINE)
    with local_cluster(tmp_path / "home", url, workers=2) as cluster:
        world = World(cluster, admin, tmp_path)
        done = world.load(f"{path}:odd", write_numbers(tmp_path / "n.txt", 400), chunk_lines=200)
        assert (done.state, done.reason, done.loaded) == ("succeeded", None, 400)
        assert {tuple(story) for story in world.attempts(done.run).values()} == {(("succeeded", "nothing"),)}
        [found] = world.ask(
            "SELECT count(*), count(DISTINCT n), bool_and(day = DATE '2026-02-03'),"
            " bool_and(raw = set_byte('\\x005c', 0, (n %% 256)::int)), min(text), max(text) FROM public.odd"
        )
        assert found == (400, 400, True, True, "東京 \\x41 '", "東京 \\x41 '")
        assert world.ask("SELECT count(*) FROM pg_indexes WHERE tablename = 'odd'") == [(1,)]
        for name in api.REPORTS:
            assert isinstance(api.report(url, name), list)
        assert api.verify_run(url).findings == ()
        [row] = api.report(url, "runs")
        [(submitted_at,)] = world.ask("SELECT submitted_at FROM protheon.run")
        assert row["submitted_at"] == submitted_at
        assert api.query(url, "select timestamptz '2026-02-03 04:05:06+00' as t")[1][0][0].isoformat().startswith("2026-02-03T")


def test_while_an_index_waits_for_a_lock_no_timeout_of_the_role_ends_it(server: OwnServer) -> None:
    """lock_timeout and statement_timeout of the role are shorter than the lock is held."""
    import threading

    from protheon_dask.ledger.connect import opened
    from protheon_dask.pipelines.table import Column, Table
    from protheon_dask.sink.finish import finish_tables

    server.execute("CREATE TABLE public.waited (n bigint)", "ALTER TABLE public.waited OWNER TO odd", database="odd")
    holder = psycopg.connect(server.url("odd"))
    holder.execute("LOCK TABLE public.waited IN ROW EXCLUSIVE MODE")
    release = threading.Timer(1.0, holder.close)
    release.start()
    with opened(server.url("odd", "odd", PASSWORD), application="test") as conn:
        assert finish_tables(conn, [Table(name="public.waited", columns=(Column("n", "bigint"),), indexes=(("n",),))]) == []
    release.join()
