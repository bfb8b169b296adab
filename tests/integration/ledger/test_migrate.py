"""Migrations are told apart by their text, and not by their numbers alone."""

from __future__ import annotations

import psycopg
import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.ledger import migrate as module
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.migrate import check_current, digest_of, migrate, migrations, shape_of


def test_a_ledger_of_the_same_numbers_and_another_text_is_refused_by_whom_it_concerns(ledger_database: str) -> None:
    assert migrate(ledger_database) == []
    with psycopg.connect(ledger_database) as conn:
        check_current(conn)
        ran = conn.execute("SELECT version, digest FROM protheon.migration ORDER BY version").fetchall()
        assert ran == [(version, digest_of(text)) for version, _, text in migrations()]
        conn.execute("UPDATE protheon.migration SET digest = 'other' WHERE version = 2")
        with pytest.raises(ConfigError, match="made by another version of Protheon"):
            check_current(conn)
    with pytest.raises(ConfigError, match=f"{ledger_database.rsplit('/', 1)[1]}.*drop the schema protheon"):
        migrate(ledger_database)


@pytest.mark.parametrize("is_other", [False, True])
def test_a_ledger_from_before_digests_is_judged_by_its_columns(database: str, monkeypatch: pytest.MonkeyPatch, is_other: bool) -> None:
    with monkeypatch.context() as before:
        before.setattr(module, "migrations", lambda: migrations()[: module.DIGESTS_FROM - 1])
        migrate(database)
    with opened(database, application="test") as conn:
        assert shape_of(conn) == module.SHAPE_BEFORE_DIGESTS
        if is_other:
            conn.execute("ALTER TABLE protheon.undo_count RENAME keeps_out TO keeps")
    if is_other:
        with pytest.raises(ConfigError, match="made by another version"):
            migrate(database)
    else:
        assert migrate(database)[0] == "0004_digests"
        with opened(database, application="test") as conn:
            check_current(conn)


def test_a_comment_and_a_line_end_make_no_other_migration() -> None:
    assert digest_of("SELECT 1; -- one\r\n") == digest_of("-- the first\nSELECT  1;") != digest_of("SELECT 2;")
