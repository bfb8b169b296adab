"""Many loaders that meet on the same few keys: no deadlock, no lost update, each counter exact, whatever is rolled back and tried again."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from protheon_dask.pipelines.table import Column, Table
from protheon_dask.sink.catalog import Target
from protheon_dask.sink.merge import merge_statement
from tests.integration.sink.conftest import Line, batch_of, load_chunk

Conn = psycopg.Connection[Any]
Make = Callable[..., list[str]]

N_LOADERS, N_CHUNKS, N_LINES, N_PLAYERS = 8, 5, 250, 3
ID, NOTE, AT = Column("id", "bigint", not_null=True), Column("note", "text"), Column("at", "integer")
COLUMNS = (ID, NOTE, AT)
FIRST = Table(name="met.first", columns=COLUMNS, primary_key=("id",), on_conflict="ignore", shared=True)
LAST = Table(name="met.last", columns=COLUMNS, primary_key=("id",), on_conflict="update", shared=True)
NEWEST = Table(name="met.newest", columns=COLUMNS, primary_key=("id",), on_conflict="update", newer_by="at", shared=True)
SUM = Table(
    name="met.sum", columns=(ID, Column("n", "bigint"), Column("x", "numeric")), primary_key=("id",), on_conflict="add", shared=True
)
TABLES = [FIRST, LAST, NEWEST, SUM]

WATCH = """
CREATE TABLE met.broken (what text);
CREATE FUNCTION met.watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO met.broken SELECT TG_TABLE_NAME || ': ' || NEW.id WHERE TG_TABLE_NAME = 'first' OR NEW.at <= OLD.at;
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON met.first FOR EACH ROW EXECUTE FUNCTION met.watch();
CREATE TRIGGER watch AFTER UPDATE ON met.newest FOR EACH ROW EXECUTE FUNCTION met.watch();
"""


@dataclass
class Oracle:
    """What was given, by key."""

    notes: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    last_of_chunks: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    newest: defaultdict[int, int] = field(default_factory=lambda: defaultdict(lambda: -1))
    ranks: dict[str, int] = field(default_factory=dict)
    sums: Counter[int] = field(default_factory=Counter)
    n_rows: Counter[str] = field(default_factory=Counter)


def chunk_of(loader: int, chunk: int, oracle: Oracle, lock: threading.Lock) -> list[Line]:
    """Lines of players of a skewed distribution: three of ten rows are one player's."""
    rng = random.Random(loader * 1_000 + chunk)
    lines: list[Line] = []
    last: dict[int, str] = {}
    with lock:
        for line in range(N_LINES):
            rows = []
            for player in range(N_PLAYERS):
                key, at, note = int(rng.paretovariate(0.5)) % 5_000, rng.randrange(60), f"{loader}/{chunk}/{line}/{player}"
                rows.append((key, note, at))
                oracle.notes[key].add(note)
                oracle.newest[key] = max(oracle.newest[key], at)
                oracle.ranks[note] = at
                oracle.sums[key] += at
                last[key] = note
            sums = [(key, at, None if at % 2 else at) for key, _, at in rows]
            lines.append([rows, rows, rows, sums])
        for key, note in last.items():
            oracle.last_of_chunks[key].add(note)
    return lines


class Undone(Exception):
    """An attempt that ends before its commit: what it did is to leave no trace."""


def load_all(connect: Callable[[], Conn], oracle: Oracle) -> list[BaseException]:
    """Run the loaders side by side and return what went wrong; every third chunk is rolled back once and loaded again."""
    failures: list[BaseException] = []
    lock, barrier = threading.Lock(), threading.Barrier(N_LOADERS)

    def work(number: int) -> None:
        try:
            conn, order = connect(), random.Random(number).sample(range(len(TABLES)), len(TABLES))
            for chunk in range(N_CHUNKS):
                lines = [[line[at] for at in order] for line in chunk_of(number, chunk, oracle, lock)]
                batches = [batch_of(lines[:100], len(TABLES)), batch_of(lines[100:], len(TABLES))]
                tables = [TABLES[at] for at in order]
                barrier.wait()
                if (number + chunk) % 3 == 0:
                    try:
                        with conn.transaction():
                            load_chunk(conn, tables, batches)
                            raise Undone
                    except Undone:
                        pass
                counts = load_chunk(conn, tables, batches).counts
                with lock:
                    for name, count in counts.items():
                        oracle.n_rows[name] += count.inserted
                        assert count.offered == count.inserted + count.updated + count.ignored == N_LINES * N_PLAYERS
        except BaseException as exc:  # noqa: BLE001 - handed to the test's own thread
            failures.append(exc)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(number,), name=f"loader-{number}") for number in range(N_LOADERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_eight_loaders_of_skewed_players_leave_what_the_rules_say(conn: Conn, connect: Callable[[], Conn], make: Make) -> None:
    make(*TABLES)
    conn.execute(WATCH)
    oracle = Oracle()
    assert load_all(connect, oracle) == []
    found = {table.name: conn.execute(f"SELECT * FROM {table.name}".encode()).fetchall() for table in TABLES}
    for rows in found.values():
        assert {row[0] for row in rows} == set(oracle.notes)
    assert {name: len(rows) for name, rows in found.items()} == dict(oracle.n_rows)  # each key was inserted by one of them
    assert all(note in oracle.notes[key] and oracle.ranks[note] == at for key, note, at in found["met.first"])
    assert all(note in oracle.last_of_chunks[key] for key, note, _ in found["met.last"])
    assert {key: at for key, _, at in found["met.newest"]} == dict(oracle.newest)
    assert all(note in oracle.notes[key] and oracle.ranks[note] == at for key, note, at in found["met.newest"])
    assert {key: n for key, n, _ in found["met.sum"]} == dict(oracle.sums)
    assert conn.execute("SELECT * FROM met.broken").fetchall() == []


@pytest.mark.slow
def test_loaders_that_do_not_lock_in_one_order_are_caught_by_this_test(
    connect: Callable[[], Conn], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: every other loader merges from the last key to the first."""

    def merge(target: Target, table: psycopg.sql.Identifier, version: int) -> psycopg.sql.Composable:
        text = merge_statement(target, table, version).as_string()
        in_order = 'FROM looked ORDER BY "id"'
        assert in_order in text
        return psycopg.sql.SQL(text.replace(in_order, f"{in_order} DESC") if is_odd() else text)

    monkeypatch.setattr("protheon_dask.sink.staging.merge_statement", merge)
    make(*TABLES)
    failures = load_all(connect, Oracle())
    assert any(isinstance(failure, psycopg.errors.DeadlockDetected) for failure in failures)


def is_odd() -> bool:
    return int(threading.current_thread().name.removeprefix("loader-")) % 2 == 1
