"""The next command finds the local master of its own ledger, among those of others."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.wire import MasterInfo
from protheon_dask.errors import BrokerUnavailable
from protheon_dask.ledger import reports
from protheon_dask.ledger.connect import opened
from protheon_dask.ledger.migrate import migrate
from protheon_dask.run.local import announce, find_joined, find_local
from tests.fixtures.broker import ChunkFolder, Runs


@dataclass(slots=True)
class RunsOf(Runs):
    """A master that leads this ledger."""

    ledger_id: str = ""

    def info(self) -> MasterInfo:
        return MasterInfo("0.1.0", "tcp://127.0.0.1:8786", "", "a-uuid", 1, 2, self.ledger_id)


def test_each_ledgers_master_is_found_while_several_run(ledger_database: str, database: str, tmp_path: Path) -> None:
    migrate(database)
    assert find_local(tmp_path, database) is None
    addresses, announced = {}, {}
    with ExitStack() as stack:
        for url in (ledger_database, database):
            with opened(url, application="test") as conn:
                ledger_id = str(reports.status(conn)["ledger_id"])
            broker = stack.enter_context(BrokerThread(RunsOf(ledger_id=ledger_id), ChunkFolder(tmp_path), "127.0.0.1", 0))
            addresses[url] = f"127.0.0.1:{broker.port}"
            announced[url] = announce(tmp_path, ledger_id, addresses[url], 1)
        for url, address in addresses.items():
            found = find_local(tmp_path, url)
            assert found is not None
            assert found.address == address
            found.close()

        killed = subprocess.Popen([sys.executable, "-c", ""])
        announce(tmp_path, announced[database].stem.removeprefix("local-master-"), addresses[database], killed.pid)
        used = find_joined(tmp_path, database, to_use=True)
        while used is not None and used[0].lives():
            time.sleep(0.01)  # it ends, and stays a zombie
        assert find_joined(tmp_path, database, to_use=True) is None  # its broker still answers, and interrupts its runs
        killed.wait()
        if used is not None:
            with used[1], pytest.raises(BrokerUnavailable, match="the command that ran the cluster has ended"):
                used[0].check()

        announced[ledger_database].write_text(announced[database].read_text())  # a dead master's port, which another has by now
        assert find_local(tmp_path, ledger_database) is None
    assert find_local(tmp_path, database) is None  # it has ended without taking its file along
