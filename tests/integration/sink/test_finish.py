"""Indexes, foreign keys and statistics at the end of a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from protheon_dask.errors import LedgerUnavailable, SchemaViolation, TargetRefused
from protheon_dask.pipelines.table import Column, ForeignKey, Table
from protheon_dask.sink.finish import Making, cancel, finish_tables, progress_of
from tests.fixtures.cluster import wait_until
from tests.integration.sink.conftest import Line, batch_of, load_chunk

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

ID, PLAYER = Column("id", "bigint", not_null=True), Column("Player", "bigint")
PLAYERS = Table(name="game.player", columns=(ID,), primary_key=("id",))
SCORES = Table(
    name="game.score",
    columns=(ID, PLAYER),
    primary_key=("id",),
    indexes=(("Player", "id"), ("id",)),
    foreign_keys=(ForeignKey(("Player",), "game.player", ("id",)),),
)


def made(conn: Conn) -> list[str]:
    indexes = conn.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'score' ORDER BY 1").fetchall()
    keys = conn.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'").fetchall()
    return [row[0] for row in indexes + keys]


def test_indexes_keys_and_statistics_are_made_once(conn: Conn, make: Make) -> None:
    make(SCORES, PLAYERS)
    conn.execute("INSERT INTO game.player VALUES (1); INSERT INTO game.score VALUES (1, 1), (2, NULL)")
    assert finish_tables(conn, [SCORES, PLAYERS]) == []
    expected = [
        'CREATE INDEX "score_Player_id_idx" ON game.score USING btree ("Player", id)',
        "CREATE UNIQUE INDEX score_pkey ON game.score USING btree (id)",
        'FOREIGN KEY ("Player") REFERENCES game.player(id) DEFERRABLE',
    ]
    assert made(conn) == expected
    assert conn.execute("SELECT reltuples FROM pg_class WHERE oid = 'game.score'::regclass").fetchone() == (2.0,)
    assert finish_tables(conn, [SCORES, PLAYERS]) == []
    assert made(conn) == expected


def test_what_cannot_be_made_is_named_and_the_rest_is_made(conn: Conn, make: Make) -> None:
    make(SCORES, PLAYERS)
    conn.execute("INSERT INTO game.score VALUES (1, 99)")
    with conn.transaction():
        [problem] = finish_tables(conn, [SCORES, PLAYERS])
    assert "foreign key of game.score (Player) to game.player (id)" in problem
    assert "23503" in problem
    assert len(made(conn)) == 2


def test_a_statement_that_is_ended_from_outside_is_to_be_tried_again(conn: Conn, connect: Callable[[], Conn], make: Make) -> None:
    make(SCORES, PLAYERS)
    other, watcher = connect(), connect()

    def end_it(making: Making) -> None:
        wait_until(lambda: "waits for a lock" in progress_of(watcher, making))
        cancel(watcher, making)

    threads: list[threading.Thread] = []

    def tell(making: Making) -> None:
        threads.append(threading.Thread(target=end_it, args=(making,)))
        threads[-1].start()

    with other.transaction():
        other.execute("LOCK TABLE game.score IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailable, match="57014"):
            finish_tables(conn, [SCORES], tell)
    threads[-1].join()  # it reads its answer: its connection is closed after that
    assert finish_tables(conn, [SCORES, PLAYERS]) == []


def test_each_that_is_made_is_told_with_its_number_and_what_is_there_is_not(conn: Conn, make: Make) -> None:
    make(SCORES, PLAYERS)
    told: list[Making] = []
    finish_tables(conn, [SCORES, PLAYERS], told.append)
    assert [making.what for making in told] == [
        "index on game.score (Player, id), 1 of 2",
        "foreign key of game.score (Player) to game.player (id), 2 of 2",
    ]
    finish_tables(conn, [SCORES, PLAYERS], told.append)
    assert len(told) == 2


def test_progress_says_phase_and_per_cent_and_who_is_in_the_way(conn: Conn, connect: Callable[[], Conn], make: Make) -> None:
    make(SCORES, PLAYERS)
    conn.execute("ALTER TABLE game.score DROP CONSTRAINT score_pkey, SET (parallel_workers = 0)")
    conn.execute("INSERT INTO game.score SELECT i, hashint8(i) FROM generate_series(1, 400000) AS i")
    table = Table(name="game.score", columns=(ID, PLAYER), indexes=(("Player", "id"),))
    other, watcher = connect(), connect()
    other.execute("SET application_name = 'a nosy editor'")
    said: list[str] = []

    def watch(making: Making) -> None:
        with other.transaction():
            other.execute("LOCK TABLE game.score IN ROW EXCLUSIVE MODE")
            blocked.set()
            said.append(wait_until(lambda: progress_of(watcher, making) if "waits" in progress_of(watcher, making) else None))
        while threads[0].is_alive():
            said.append(progress_of(watcher, making))

    blocked, threads = threading.Event(), list[threading.Thread]()

    def tell(making: Making) -> None:
        watching = threading.Thread(target=watch, args=(making,))
        watching.start()
        threads.append(watching)
        blocked.wait()

    threads.append(threading.Thread(target=lambda: problems.extend(finish_tables(conn, [table], tell))))
    problems: list[str] = []
    threads[0].start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(threads) == 2)
    threads[1].join()
    assert problems == []
    head = "making index on game.score (Player, id), 1 of 1: "
    assert [
        text for text in said if text.startswith(f"{head}waits for a lock of session") and "(a nosy editor, idle in transaction)" in text
    ]
    shares = [
        int(found[1])
        for text in said
        if (found := re.fullmatch(re.escape(head) + r"(?:scanning table|loading tuples in tree), (\d+)%", text))
    ]
    assert shares
    assert max(shares) <= 100


def test_an_invalid_index_counts_as_missing_and_stays(conn: Conn, make: Make) -> None:
    """As a CREATE INDEX CONCURRENTLY leaves it that somebody has cancelled."""
    make(SCORES, PLAYERS)
    conn.execute("INSERT INTO game.score VALUES (1, 5), (2, 5)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute('CREATE UNIQUE INDEX CONCURRENTLY broken ON game.score ("Player")')
    table = Table(name="game.score", columns=(ID, PLAYER), indexes=(("Player",),))
    assert finish_tables(conn, [table]) == []
    found = conn.execute("""
        SELECT c.relname, i.indisvalid FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE i.indrelid = 'game.score'::regclass AND NOT i.indisprimary ORDER BY 1
    """).fetchall()
    assert found == [("broken", False), ("score_Player_idx", True)]


def test_while_an_index_is_made_others_may_submit(conn: Conn, connect: Callable[[], Conn], make: Make) -> None:
    make(SCORES, PLAYERS)
    other = connect()
    with other.transaction():
        other.execute("LOCK TABLE game.score IN ROW EXCLUSIVE MODE")
        working = threading.Thread(target=lambda: finish_tables(connect(), [SCORES, PLAYERS]))
        working.start()
        wait_until(lambda: other.execute("SELECT 1 FROM pg_locks WHERE relation = 'game.score'::regclass AND NOT granted").fetchone())
        conn.execute("SET lock_timeout = '2s'")
        make(SCORES, PLAYERS, Table(name="game.third", columns=(ID,)))
    working.join()
    assert len(made(conn)) == 3


KILLED = """
import sys, psycopg
from protheon_dask.pipelines.table import Table
from protheon_dask.sink.finish import Making, cancel, finish_tables, progress_of
from tests.fixtures.cluster import wait_until
from tests.integration.sink.conftest import Line, batch_of, load_chunk
import json
with psycopg.connect(sys.argv[1], autocommit=True, application_name="doomed") as conn:
    finish_tables(conn, [Table.from_json(json.loads(sys.argv[2]))])
"""


@pytest.mark.slow
def test_the_statement_of_a_broker_that_was_killed_ends_and_another_makes_the_index(database: str, conn: Conn, make: Make) -> None:
    make(SCORES, PLAYERS)
    with conn.transaction():
        conn.execute("LOCK TABLE game.score IN ROW EXCLUSIVE MODE")
        doomed = subprocess.Popen([sys.executable, "-c", KILLED, database, json.dumps(SCORES.to_json())])
        waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'doomed' AND wait_event_type = 'Lock'"
        wait_until(lambda: conn.execute("SELECT pg_stat_clear_snapshot()") and conn.execute(waiting).fetchone())
        doomed.kill()
        doomed.wait()
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'doomed')"
        wait_until(lambda: conn.execute("SELECT pg_stat_clear_snapshot()") and conn.execute(gone).fetchone() == (True,))
    assert len(made(conn)) == 1
    assert finish_tables(conn, [SCORES, PLAYERS]) == []
    assert len(made(conn)) == 3


def test_a_partitioned_table_gets_its_index_on_every_partition(conn: Conn, make: Make) -> None:
    conn.execute("""
        CREATE SCHEMA game; CREATE TABLE game.score (id bigint PRIMARY KEY, "Player" bigint) PARTITION BY HASH (id);
        CREATE TABLE game.score_0 PARTITION OF game.score FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE game.score_1 PARTITION OF game.score FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    """)
    make(SCORES, PLAYERS)
    assert finish_tables(conn, [SCORES, PLAYERS]) == []
    indexed = conn.execute("SELECT count(*) FROM pg_indexes WHERE tablename LIKE 'score\\__' AND indexdef LIKE '%Player%'").fetchone()
    assert indexed == (2,)


@pytest.mark.parametrize("shared", [False, True], ids=["direct", "merged last"])
def test_rows_of_the_next_load_may_come_before_those_that_they_refer_to(conn: Conn, make: Make, shared: bool) -> None:
    """The pipeline names the referring table first; a shared table's rows come last anyway."""
    players = replace(PLAYERS, on_conflict="ignore", shared=shared)
    make(SCORES, players)
    assert finish_tables(conn, [SCORES, players]) == []
    lines: list[Line] = [[[(n, n % 3)], [(n % 3,)]] for n in range(6)]
    lines[4] = [[(4, 77)], []]  # a player whom nobody knows
    batches = [batch_of(lines[:3], 2), batch_of(lines[3:], 2)]
    if shared:
        with pytest.raises(SchemaViolation, match="23503"):
            load_chunk(conn, [SCORES, players], batches)
    chunk = load_chunk(conn, [SCORES, players], batches, merge_each_batch=shared)
    assert chunk.refused == [(1, "23503")]
    assert conn.execute("SELECT id FROM game.score ORDER BY id").fetchall() == [(n,) for n in range(6) if n != 4]
    good: list[Line] = [[[(n, n)], [(n,)]] for n in range(10, 20)]
    assert load_chunk(conn, [SCORES, players], [batch_of(good[:5], 2), batch_of(good[5:], 2)]).faults == []
    assert make(SCORES, players) == []


def test_a_foreign_key_of_others_that_waits_for_nothing_is_refused_where_its_rows_come_first(conn: Conn, make: Make) -> None:
    players = replace(PLAYERS, on_conflict="ignore", shared=True)
    make(SCORES, players)
    conn.execute('ALTER TABLE game.score ADD CONSTRAINT "at once" FOREIGN KEY ("Player") REFERENCES game.player')
    for tables in ([SCORES, players], [SCORES, PLAYERS]):
        with pytest.raises(TargetRefused) as refused:
            make(*tables)
        words = "game.score has the foreign key at once to game.player, whose rows come after its own: "
        assert words + 'ALTER TABLE "game"."score" ALTER CONSTRAINT "at once" DEFERRABLE' in str(refused.value)
    assert make(PLAYERS, SCORES) == []
    conn.execute(str(refused.value).rpartition(": ")[2].encode())
    assert make(SCORES, players) == []
