"""A worker process in this process: real ledger, real chunk files, a real broker that streams them, no Dask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.config import Settings
from protheon_dask.ledger import leadership, runs, verbs
from protheon_dask.model import Cost, Dispatch, Failed, Outcome, Seen, SplitState
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.pack import pack
from protheon_dask.run.cutting import Wanted
from protheon_dask.run.desk import ChunkDesk
from protheon_dask.run.worker import WorkerProcess
from protheon_dask.sink.targets import ensure_tables
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitJob, split
from tests.fixtures.cluster import ask

KEY = b"k" * 32
LIMITS = {"chunk_lines": 10, "max_chunk_bytes": 1 << 20, "max_line_bytes": 1 << 16}
NUMBERS = '''
import protheon_dask as protheon

T = protheon.Table(name="public.numbers", columns=(protheon.Column("n", "bigint"),))

@protheon.pipeline(version="1", tables=[T])
def numbers(line: bytes):
    """No key and no rule: a row that is loaded twice shows."""
{body}
    return (int(line),)
'''


def pipeline_file(directory: Path, body: str = "") -> str:
    """A file with the pipeline ``numbers``; body: statements before its return."""
    path = directory / f"numbers_{uuid4().hex[:8]}.py"
    path.write_text(NUMBERS.format(body="\n".join("    " + line for line in body.splitlines())))
    return f"{path}:numbers"


@dataclass
class Bench:
    """One run over a file of numbers, cut into chunks of ten lines, and as many workers as a test makes."""

    url: str
    directory: Path
    conn: psycopg.Connection
    store: ChunkStore
    broker_address: str
    wanted: list[Wanted]
    stack: ExitStack
    epoch: int
    run_id: int = 0
    load_id: int = 0
    task_ids: list[int] = field(default_factory=list)

    def submit(
        self,
        lines: str | bytes | Path,
        *,
        body: str = "",
        reject_limit_lines: int | None = None,
        reject_limit_fraction: float | None = None,
        pipeline: str = "",
        checksum: bool = False,
        again: bool = False,
        **limits: int,
    ) -> None:
        """Make a run of a new file with these lines, or of this file. pipeline: another than ``numbers``. limits: for some of LIMITS."""
        chosen = {**LIMITS, **limits}
        source = lines if isinstance(lines, Path) else self.directory / f"{uuid4().hex}.txt"
        if not isinstance(lines, Path):
            source.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
        packed = pack(find(pipeline or pipeline_file(self.directory, body), paths=[str(source)]), KEY)
        columns = {
            "paths": [str(source)],
            "pipeline_name": packed.name,
            "pipeline_version": packed.version,
            "chunk_lines": None,
            "reject_limit_lines": reject_limit_lines,
            "reject_limit_fraction": reject_limit_fraction,
            "request_id": str(uuid4()),
            "ephemeral": False,
            "checksum": checksum,
        }
        values = {name.removesuffix("_json"): value for name, value in asdict(packed).items()}
        with self.conn.transaction():
            ensure_tables(self.conn, packed.tables())
            run_id = runs.create_run(self.conn, columns, values)
            assert run_id is not None
            new = runs.NewLoad(
                run_id=run_id,
                pipeline_name=packed.name,
                pipeline_version=packed.version,
                options=packed.options_json,
                code_hash=packed.code_hash,
                path=str(source),
                identity=identify(str(source)),
                chunk_lines_given=False,
                estimated_lines=1,
                **chosen,
            )
            self.load_id = runs.join_load(self.conn, new, again=again).load_id
            runs.start_run(self.conn, run_id, [])
        self.run_id = run_id
        job = SplitJob(
            load_id=self.load_id,
            path=str(source),
            directory=str(self.store.directory),
            identity=new.identity,
            chunk_lines=chosen["chunk_lines"],
            max_chunk_raw_bytes=chosen["max_chunk_bytes"],
            max_line_bytes=chosen["max_line_bytes"],
        )
        self.task_ids = []
        for event in split(job, Credit(1 << 30)):
            if isinstance(event, ChunkCut):
                self.store.add(self.load_id, event.manifest)
                self.task_ids.append(verbs.enqueue(self.conn, self.epoch, self.load_id, event.manifest))
            else:
                assert isinstance(event, SplitEnded)
                runs.split_ended(self.conn, self.epoch, self.load_id, SplitState.COMPLETE, n_chunks=event.n_chunks)

    def worker(self, url: str | None = None, **settings: Any) -> WorkerProcess:
        """A worker process's own; url: the database as it sees it."""
        chosen = Settings(**{"advisory_wait_s": 5.0, **settings})
        name = f"w{uuid4().hex[:4]}"
        client = self.stack.enter_context(BrokerClient(self.broker_address))
        worker = WorkerProcess(chosen, name=name, broker=client, url=url or self.url, key=KEY)
        self.stack.callback(worker._drop_connection)
        return worker

    def dispatch(self, task: int = 0) -> Dispatch:
        """The task as the ledger shows it now."""
        [(attempt_no,)] = self.ask("SELECT attempt_no FROM protheon.task WHERE id = %s", self.task_ids[task])
        return Dispatch(self.task_ids[task], attempt_no, "ingest")

    def make_due(self) -> None:
        """Let no task wait for its backoff."""
        self.conn.execute("UPDATE protheon.task SET ready_at = now() WHERE state = 'ready'")

    def load_all(self, worker: WorkerProcess) -> list[str]:
        """Run every task once, and finish what is whole."""
        words = [worker.run(self.dispatch(n)) for n in range(len(self.task_ids))]
        runs.finish_loads(self.conn)
        return words

    def expire(self, task: int = 0) -> None:
        """Take a running attempt away from its worker, as the coordinator does when its lease ran out."""
        [(attempt_no,)] = self.ask("SELECT attempt_no FROM protheon.task WHERE id = %s", self.task_ids[task])
        with self.conn.transaction():
            [expiring] = verbs.expire(self.conn, self.epoch, [Seen(self.task_ids[task], attempt_no)])
            verbs.release(self.conn, expiring.lease, LOST, Outcome.EXPIRED, 0.0)

    def ask(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return ask(self.url, sql, *params)

    def numbers(self) -> list[int]:
        return [row[0] for row in self.ask("SELECT n FROM public.numbers ORDER BY n")]

    def endings(self, task: int = 0) -> list[tuple[int, str | None, str | None]]:
        return self.ask(
            "SELECT attempt_no, outcome, cost FROM protheon.attempt WHERE task_id = %s ORDER BY attempt_no", self.task_ids[task]
        )

    def state(self, task: int = 0) -> str:
        [(state,)] = self.ask("SELECT state FROM protheon.task WHERE id = %s", self.task_ids[task])
        return str(state)

    def run_state(self) -> tuple[str, str | None]:
        [row] = self.ask("SELECT state, state_reason FROM protheon.run WHERE id = %s", self.run_id)
        return row


LOST = Failed(Cost.LOSS, "WorkerDied", "its lease ran out")


@pytest.fixture
def bench(ledger_database: str, tmp_path: Path) -> Iterator[Bench]:
    """A ledger that this test leads, and a broker that streams the chunk files."""
    with ExitStack() as stack:
        conn = stack.enter_context(psycopg.connect(ledger_database, autocommit=True))
        lead = leadership.take(conn, uuid4())
        assert lead is not None
        store, wanted = ChunkStore(tmp_path / "workspace" / str(lead.ledger_id), 1 << 30), []
        desk = ChunkDesk(ledger_database, store, wanted.append)
        broker = stack.enter_context(BrokerThread(None, desk, "127.0.0.1", 0))  # type: ignore[arg-type]  # no call about runs comes
        yield Bench(ledger_database, tmp_path, conn, store, f"127.0.0.1:{broker.port}", wanted, stack, lead.epoch)


class Running:
    """A call in a thread of its own, whose answer is waited for."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self._answer, self._error = call, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._call()
        except BaseException as exc:  # noqa: BLE001  # handed over to the test's thread
            self._error = exc

    def answer(self, timeout_s: float = 30.0) -> Any:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "it is still at work"
        if self._error is not None:
            raise self._error
        return self._answer
