"""A broker that leads one ledger and makes runs in another would dispatch nothing: it does not start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.config import Settings, environment
from protheon_dask.ledger import leadership
from protheon_dask.ledger.migrate import migrate
from protheon_dask.run.broker import check_one_ledger

START_S = 60.0


def test_two_urls_of_different_databases_are_refused(database: str, ledger_database: str, tmp_path: Path) -> None:
    migrate(database)
    settings = Settings(database_url=database, direct_url=ledger_database, home=str(tmp_path))
    command = [sys.executable, "-m", "protheon_dask.run.broker", "--scheduler", "tcp://127.0.0.1:1", "--port", "0"]
    env = {**os.environ, **environment(settings)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=START_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "different databases" in done.stderr


@pytest.mark.parametrize("moved_on", [False, True])
def test_two_ways_to_one_ledger_are_one_also_after_it_was_led(ledger_database: str, moved_on: bool) -> None:
    if moved_on:
        with psycopg.connect(ledger_database) as conn:
            assert leadership.take(conn, uuid4()) is not None
    check_one_ledger(Settings(database_url=ledger_database, direct_url=f"{ledger_database}?connect_timeout=7"))
