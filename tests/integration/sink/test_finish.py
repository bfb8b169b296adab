"""Indexes, foreign keys and statistics at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from protheon_dask.errors import LedgerUnavailable
from protheon_dask.pipelines.table import Column, ForeignKey, Table
from protheon_dask.sink.finish import finish_tables

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
        'FOREIGN KEY ("Player") REFERENCES game.player(id)',
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


def test_a_passing_refusal_is_to_be_tried_again(conn: Conn, connect: Callable[[], Conn], make: Make) -> None:
    make(SCORES, PLAYERS)
    other = connect()
    conn.execute("SET lock_timeout = '200ms'")
    with other.transaction():
        other.execute("LOCK TABLE game.score IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailable):
            finish_tables(conn, [SCORES])
