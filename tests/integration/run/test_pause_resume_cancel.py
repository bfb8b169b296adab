"""pause, resume and cancel from gRPC, Python and the command line: each twice, in each state, and of a run that is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.broker.wire import Resumption
from protheon_dask.cli.main import main
from protheon_dask.config import Settings
from protheon_dask.errors import NotFound
from protheon_dask.ledger import reports
from protheon_dask.model import RunState
from protheon_dask.run import api
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.desk import ChunkDesk, Place, RunDesk
from protheon_dask.run.local import announce
from protheon_dask.run.master import Master
from protheon_dask.workspace.chunkfile import ChunkStore
from tests.integration.ledger.test_verbs import submit

AFTER = {
    "pause": {RunState.RUNNING: RunState.PAUSED},
    "resume": {RunState.PAUSED: RunState.RUNNING},
    "cancel": dict.fromkeys((RunState.QUEUED, RunState.RUNNING, RunState.PAUSED), RunState.CANCELLED),
}
"""What a verb makes of a state; every other state stays."""


@dataclass
class Calls:
    """A broker's answers over a ledger in which nobody works, and the ways to ask for them."""

    url: str
    home: Path
    conn: psycopg.Connection
    client: BrokerClient
    master: Master

    def run(self, state: RunState) -> int:
        """A run in this state, with a reason of its own."""
        run_id, _ = submit(self.conn, os.urandom(16))
        ended = state.is_final
        self.conn.execute(
            "UPDATE protheon.run SET state = %s, state_reason = %s, ended_at = CASE WHEN %s THEN now() END WHERE id = %s",
            (str(state), None if state is RunState.RUNNING else "first", ended, run_id),
        )
        return run_id

    def stands(self, run_id: int) -> tuple[str, str | None]:
        row = self.conn.execute("SELECT state, state_reason FROM protheon.run WHERE id = %s", (run_id,)).fetchone()
        assert row is not None
        return row

    def ask(self, way: str, verb: str, run_id: int) -> str:
        """Ask for it in this way, and return the state that was told."""
        if way == "command":
            assert main(["runs", verb, str(run_id), "--json"]) in (0, 1)
            return ""
        asked: dict[tuple[str, str], Callable[[int], object]] = {
            ("gRPC", "pause"): lambda n: self.client.pause(n).state,
            ("gRPC", "resume"): lambda n: self.client.resume(Resumption(n)).state,
            ("gRPC", "cancel"): lambda n: self.client.cancel(n).state,
            ("Python", "pause"): lambda n: self.master.pause(n).state,
            ("Python", "resume"): lambda n: self.master.resume(n).state,
            ("Python", "cancel"): lambda n: self.master.cancel(n).state,
            ("ledger", "pause"): lambda n: api.pause_run(self.url, n).state,
            ("ledger", "cancel"): lambda n: api.cancel_run(self.url, n).state,
        }
        return str(asked[way, verb](run_id))


@pytest.fixture
def calls(ledger_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """With a local master that commands find: its desk answers, and no coordinator works."""
    coordinator = Coordinator(Settings(), ledger_database, "tcp://127.0.0.1:9", ChunkStore(tmp_path / "w", 1 << 30), uuid4(), 1)
    with psycopg.connect(ledger_database, autocommit=True) as conn:
        assert coordinator.start_leading(ephemeral=False)
        desk = RunDesk(Settings(), ledger_database, coordinator, Place("", "", ""), ephemeral=False)
        chunks = ChunkDesk(ledger_database, coordinator.cutting.store, coordinator.tell)
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setenv("PROTHEON_HOME", str(home))
        monkeypatch.setenv("PROTHEON_DATABASE_URL", ledger_database)
        with BrokerThread(desk, chunks, "127.0.0.1", 0) as broker:
            address = f"127.0.0.1:{broker.port}"
            announce(home, str(reports.status(conn)["ledger_id"]), address, os.getpid())
            with BrokerClient(address) as client, Master(address) as master:
                yield Calls(ledger_database, home, conn, client, master)
        coordinator._ledger.close()


WAYS = [(way, verb) for way in ("gRPC", "Python", "ledger", "command") for verb in AFTER if (way, verb) != ("ledger", "resume")]


@pytest.mark.parametrize(("way", "verb"), WAYS)
def test_asked_twice_in_any_state_the_second_time_changes_nothing(calls: Calls, way: str, verb: str) -> None:
    for state in RunState:
        if (way, verb) == ("command", "resume") and not state.is_final:
            continue  # it would watch a run on which nobody works: tests/acceptance has it
        run_id = calls.run(state)
        first = calls.ask(way, verb, run_id), calls.stands(run_id)
        assert first[1][0] == AFTER[verb].get(state, state), (state, verb)
        assert first[0] in ("", first[1][0])
        assert (calls.ask(way, verb, run_id), calls.stands(run_id)) == first, (state, verb)
        if state not in AFTER[verb]:
            assert first[1][1] == (None if state is RunState.RUNNING else "first")
        elif verb != "resume":
            assert first[1][1] == {"pause": "paused by hand", "cancel": "cancelled by hand"}[verb]


@pytest.mark.parametrize(("way", "verb"), WAYS)
def test_a_run_that_is_not_there_is_named(calls: Calls, way: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if way != "command":
        with pytest.raises(NotFound, match="there is no run 4242"):
            calls.ask(way, verb, 4_242)
        return
    assert main(["runs", verb, "4242"]) == 2
    assert "there is no run 4242" in capsys.readouterr().err


def test_commands_say_that_a_run_had_ended_or_was_paused_before(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    ended, paused, running = (calls.run(state) for state in (RunState.SUCCEEDED, RunState.PAUSED, RunState.RUNNING))
    told = {}
    for verb, run_id in (("cancel", ended), ("pause", ended), ("resume", ended), ("pause", paused)):
        assert main(["runs", verb, str(run_id)]) == 0
        told[verb, run_id] = "".join(capsys.readouterr())
    assert f"run {ended} had ended already: succeeded" in told["cancel", ended]
    assert f"run {ended} had ended already: succeeded" in told["pause", ended]
    assert f"run {ended} had ended already" in told["resume", ended]
    assert f"run {paused}: paused already: first" in told["pause", paused]

    for path in calls.home.glob("local-master-*.json"):
        path.unlink()  # no master any more: resume has nobody to watch, and must not pretend
    assert main(["runs", "resume", str(running)]) == 2
    assert f"run {running} is running, and no master runs here" in capsys.readouterr().err
    assert main(["runs", "pause", str(running), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "paused"
