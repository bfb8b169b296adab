"""A person's own SQL reads, and what PostgreSQL says against it is the person's to read."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.ledger.reports import query
from protheon_dask.run import api


@pytest.fixture
def kept(database: str) -> str:
    """A database with a table of three rows that nothing may change."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE kept AS SELECT n FROM generate_series(1, 3) AS n")
    return database


def count(url: str) -> int:
    [(n,)] = api.query(url, "select count(*) from kept;")[1]
    return int(n)


@pytest.mark.parametrize(
    "sql",
    [
        "delete from kept",
        "with gone as (delete from kept returning n) select * from gone",
        "create table other (n int)",
        "truncate kept",
        "drop table kept",
    ],
)
def test_a_query_that_changes_something_is_refused_with_a_way_on(kept: str, sql: str) -> None:
    with pytest.raises(ConfigError, match="only reads: use psql for changes"):
        api.query(kept, sql)
    assert count(kept) == 3


@pytest.mark.parametrize(
    "sql",
    [
        "commit; delete from kept",
        "do $$ begin commit; delete from kept; end $$",
        "set transaction read write; delete from kept",
        "select set_config('transaction_read_only', 'off', true)",
        "rollback",
        "copy kept to stdout",
        "copy kept from stdin",
    ],
)
def test_no_way_leads_out_of_the_read_only_transaction(kept: str, sql: str) -> None:
    with suppress(ConfigError):
        api.query(kept, sql)
    assert count(kept) == 3


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("selec 1", "syntax error"),
        ("select 1 / 0", "division by zero"),
        ("select * from nowhere", 'relation "nowhere" does not exist'),
        ("select 'x'::int", "invalid input syntax for type integer"),
        ("select (select n from kept)", "more than one row"),
        ("copy kept to stdout", "takes no COPY"),
        ("select 1; select 2", "multiple commands"),
        ("do $$ begin raise exception 'so be it'; end $$", "so be it"),
    ],
)
def test_what_postgresql_says_against_a_query_is_for_its_author(kept: str, sql: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        api.query(kept, sql)


def test_names_and_rows_come_back_also_where_there_is_no_row(kept: str) -> None:
    assert api.query(kept, "select n, n * 2 as twice from kept where n > 1 order by n") == (["n", "twice"], [(2, 4), (3, 6)])
    assert api.query(kept, "select n from kept where n::text like '%9%'") == (["n"], [])
    assert api.query(kept, "-- nothing") == ([], [])
    assert api.query(kept, "show server_encoding")[1] == [("UTF8",)]


def test_the_connection_may_be_used_again(kept: str) -> None:
    with psycopg.connect(kept, autocommit=True) as conn:
        with pytest.raises(ConfigError):
            query(conn, "delete from kept")
        assert query(conn, "select 1 as one") == (["one"], [(1,)])
