"""The broker process of a master with an authority: mutual TLS alone, secrets for its hosts, and no start without what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import Versions
from protheon_dask.config import Settings, environment
from protheon_dask.errors import ConfigError, NotAllowed
from protheon_dask.run.trust.keys import KEY_FILE, read_key
from tests.fixtures.tls import MASTER, authority, identity

START_S = 60.0


def started(settings: Settings, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "protheon_dask.run.broker", "--scheduler", "tls://0.0.0.0:1", "--port", "0", "--http-port", "0"]
    env = {**os.environ, **environment(settings)}
    return subprocess.Popen([*command, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def broker(settings: Settings) -> Iterator[str]:
    """The process, by its address."""
    process = started(settings)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.terminate()
        process.communicate(timeout=START_S)


@pytest.mark.slow
def test_its_hosts_get_what_they_need_and_it_starts_only_where_it_can_tell_them_apart(ledger_database: str, tmp_path: Path) -> None:
    made = authority(tmp_path)
    master, nuc = identity(made, MASTER), identity(made, "nuc")
    settings = Settings(database_url=ledger_database, home=str(tmp_path), tls_dir=str(master.directory))
    with broker(settings) as address:
        with BrokerClient(address) as stranger, pytest.raises(ConfigError, match="speaks mutual TLS"):
            stranger.info()
        with BrokerClient(address, nuc) as client:
            enrolled = client.enrol("nuc", Versions())
            assert enrolled.database_url == ledger_database
            assert enrolled.cluster_key == read_key(tmp_path / KEY_FILE)
            assert enrolled.scheduler_address == "tls://127.0.0.1:1"
            made.remove("nuc")  # another process: the broker finds it in the authority's file
            with pytest.raises(NotAllowed, match="removed"):
                client.info()

    made.directory.rename(tmp_path / "elsewhere")
    process = started(settings)
    _, told = process.communicate(timeout=START_S)
    assert process.returncode == 2
    assert "there is no authority at" in told
    assert ledger_database not in told
