"""A master as its clients see it: the gRPC face in the library's own values."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, TypeVar
from uuid import uuid4

from protheon_dask.broker.chunks import PinnedChunk
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.cluster_wire import Enrolment, HostView, Versions
from protheon_dask.broker.pin_wire import PinRequest
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.broker.wire import (
    DeadLetters,
    LetterChoice,
    MasterInfo,
    Replay,
    Report,
    Resumption,
    Submission,
    Submitted,
    TaskSubmission,
    TaskView,
)
from protheon_dask.errors import BrokerUnavailable, ChunkUnavailable, ConfigError, LedgerUnavailable, TransientError
from protheon_dask.pipelines.function import to_json
from protheon_dask.pipelines.pack import pack
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import RejectLimit
from protheon_dask.run.frames import MOST_ROWS, from_json
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.words import says_since, since

T = TypeVar("T")

AWAY_S = 30.0
"""How long a broker that does not answer is waited for, where nothing is known that starts it again."""
RETRY_S = 0.5
WAIT_TASK_S = 20.0
"""One call of wait_task(): asked again after it, so that a broker that is stuck is left too."""


class Master:
    """A client of one master. A context manager; connects at the first call; once it is closed, each call raises ConfigError.

    check: asked with each picture of a run, and when the broker does not answer; raises where that is known to be for good.
    comes_back: asked when the broker does not answer; True: it is started again, however long that takes.
    """

    def __init__(
        self,
        address: str,
        key: bytes | None = None,
        *,
        check: Callable[[], object] = lambda: None,
        comes_back: Callable[[], bool] = lambda: False,
        tls: TlsFiles | None = None,
    ) -> None:
        self.address, self._key, self._check, self._comes_back = address, key, check, comes_back
        self.tls = tls
        self._client = BrokerClient(address, tls)

    @property
    def key(self) -> bytes | None:
        """The cluster's key, by which pipelines that travel by value are signed and checked; None: it is not known here."""
        return self._key

    def submit(
        self,
        pipeline: Pipeline,
        paths: Sequence[str],
        *,
        chunk_lines: int | None = None,
        reject_limit: RejectLimit | None = None,
        again: bool = False,
        replace: bool = False,
        checksum: bool = False,
    ) -> Submitted:
        """Ask for a run: load these paths, as the master sees them, through this pipeline.

        Raises: ConfigError: a path, table or option; BrokerUnavailable, LedgerUnavailable. Safe to repeat: it attaches.
        """
        submission = Submission(
            paths=tuple(paths),
            pipeline=pack(pipeline, self._key),
            chunk_lines=chunk_lines or 0,
            reject_limit_lines=reject_limit.lines if reject_limit else None,
            reject_limit_fraction=reject_limit.fraction if reject_limit else None,
            again=again,
            replace=replace,
            checksum=checksum,
            request_id=str(uuid4()),
        )
        return self._through_restarts(lambda: self._client.submit(submission))

    def watch(self, run_id: int, end_at: float = math.inf) -> Iterator[RunStatistics]:
        """The run at once, then on change, at most twice a second, last as ended or paused, or as it is at end_at (monotonic clock).

        While PostgreSQL or the broker is away the last picture says so, and since when: an outage is waited for.
        Raises: BrokerUnavailable, LedgerUnavailable before the first picture, unless the broker is known to come back;
                BrokerUnavailable when it was away for AWAY_S and is not known to come back; what check raises; NotFound;
                ConfigError: this was closed, by another thread too.
        """
        latest: RunStatistics | None = None
        away: tuple[type[TransientError], float] | None = None  # what is away, and since when (monotonic)
        while True:
            try:
                for view in self._client.watch(run_id, end_at):
                    self._check()  # a broker that is ended cancels its runs first
                    away = None
                    latest = RunStatistics.from_json(view.statistics)
                    yield latest
                return
            except (LedgerUnavailable, BrokerUnavailable) as exc:
                self._check()
                if away is None or away[0] is not type(exc):
                    away = (type(exc), time.monotonic())
                    if latest is not None:
                        told = str(exc)
                        latest = dataclasses.replace(latest, reason=told if says_since(told) else since(datetime.now(UTC), told))
                        yield latest
                is_patient = latest is not None if isinstance(exc, LedgerUnavailable) else time.monotonic() - away[1] < AWAY_S
                if not is_patient and not self._comes_back():
                    raise
                if time.monotonic() >= end_at:
                    if latest is None:
                        raise
                    return
                time.sleep(RETRY_S)
            except ConfigError:  # this was closed; where that is because the cluster has ended, that is what is told
                self._check()
                raise

    def get(self, run_id: int = 0) -> RunStatistics:
        """The run as it is now; 0 is the latest."""
        return RunStatistics.from_json(self._client.get(run_id).statistics)

    def runs(self, limit: int = 20) -> list[RunStatistics]:
        """The newest runs, newest first."""
        return [RunStatistics.from_json(view.statistics) for view in self._client.list(limit)]

    def report(self, name: str, run_id: int = 0, limit: int | None = None, *, everything: bool = False) -> Iterator[Mapping[str, Any]]:
        """Rows of a named report, at most limit (None: all), as run.reporting.rows() gives them; UUIDs are text.

        Raises: ConfigError: there is no such report; the message names them. NotFound; BrokerUnavailable: the rest does not come.
        """
        wanted = Report(name, run_id, MOST_ROWS if limit is None else limit, everything)
        for page in self._client.report(wanted):
            for row in json.loads(page):
                yield from_json(name, row)

    def cancel(self, run_id: int) -> RunStatistics:
        """Cancel a run; idempotent."""
        return RunStatistics.from_json(self._client.cancel(run_id).statistics)

    def pause(self, run_id: int, reason: str = "") -> RunStatistics:
        """Dispatch nothing more of a run; idempotent. What runs now is finished."""
        return RunStatistics.from_json(self._client.pause(run_id, reason).statistics)

    def resume(self, run_id: int, reject_limit: RejectLimit | None = None) -> RunStatistics:
        """Go on with a paused run, under another reject limit where one is given; idempotent."""
        limits = (reject_limit.lines, reject_limit.fraction) if reject_limit else (None, None)
        view = self._through_restarts(lambda: self._client.resume(Resumption(run_id, *limits)))
        return RunStatistics.from_json(view.statistics)

    def replay(self, run_id: int = 0, pipeline: Pipeline | None = None, reject_limit: RejectLimit | None = None) -> Submitted:
        """Ask for a run of what is still refused of a run, and of its replays, through this pipeline or the run's own.

        reject_limit: left out, none: a pipeline that mends some of the lines is the normal case.
        run_id 0 is the latest; of the answer: nothing is left that could be replayed now, and the notices say why.
        Raises: as submit(). Safe to repeat: lines that wait in a replay are left to it, and the answer is that run if it has all.
        """
        limits = (reject_limit.lines, reject_limit.fraction) if reject_limit else (None, None)
        packed = None if pipeline is None else pack(pipeline, self._key)
        wanted = Replay(run_id, packed, *limits, request_id=str(uuid4()))
        return self._through_restarts(lambda: self._client.replay(wanted))

    def replay_dead_letters(self, run_id: int = 0, task_ids: Sequence[int] = ()) -> DeadLetters:
        """Make dead tasks ready again: those named, or all open ones of a run (0: the latest); runs that had ended over them go on.

        Raises: ConfigError: why one that was named cannot be; NotFound; BrokerUnavailable, LedgerUnavailable. Safe to repeat.
        """
        return self._through_restarts(lambda: self._client.replay_dead_letters(LetterChoice(run_id, tuple(task_ids))))

    def purge_dead_letters(self, run_id: int = 0, task_ids: Sequence[int] = ()) -> DeadLetters:
        """Give dead tasks up for good: those named, or all open ones of a run (0: the latest). Their letters stay. Safe to repeat."""
        return self._through_restarts(lambda: self._client.purge_dead_letters(LetterChoice(run_id, tuple(task_ids))))

    def undo(self, load_id: int) -> dict[str, int]:
        """Delete the rows of a load and return how many went, by table. Raises ConfigError: why not. Asked again, it goes on."""
        return self._client.undo(load_id).deleted_rows

    def pin(self, request: PinRequest, on_chunk: Callable[[list[PinnedChunk]], object] = lambda _: None) -> list[PinnedChunk]:
        """Have sources cut for those who read them, and return the chunks, and notices, once all are cut.

        A broker that is away in the midst of it is waited for; the next one goes on where it was. on_chunk: called with those so far.
        Raises: as submit(); WorkspaceFull; BrokerUnavailable: away for AWAY_S, and not known to come back.
        """
        heard_at: float | None = None
        while True:
            chunks: list[PinnedChunk] = []
            try:
                for chunk in self._client.pin(request):
                    chunks.append(chunk)
                    heard_at = time.monotonic()
                    on_chunk(chunks)
                return chunks
            except (BrokerUnavailable, ChunkUnavailable):
                self._check()
                if not self._comes_back() and (heard_at is None or time.monotonic() - heard_at > AWAY_S):
                    raise
                time.sleep(RETRY_S)

    def submit_task(
        self,
        handler: str,
        payload: object = None,
        *,
        priority: int = 0,
        delay_s: float = 0.0,
        visibility_timeout_s: float | None = None,
        max_failures: int | None = None,
        request_id: str | None = None,
    ) -> TaskView:
        """Have a function run on a worker: ``module:name`` of one that protheon.task decorates, with this JSON value as payload.

        visibility_timeout_s: an attempt that tells of no progress for that long is taken back, and its process started anew.
        request_id:           names this submission: the same again returns the same task, and another content is refused.
        Raises:    ConfigError: the payload is no JSON, an option is out of its range, or the handler is no task. BrokerUnavailable,
                   LedgerUnavailable: ask again, with a request_id of your own: then there is one task.
        Guarantee: the task is in the ledger when this returns; from then on it outlives every process.
        """
        submission = TaskSubmission(
            handler=handler,
            payload_json=to_json(payload, f"the payload for {handler}"),
            priority=priority,
            delay_s=delay_s,
            visibility_timeout_s=visibility_timeout_s or 0.0,
            max_failures=max_failures or 0,
            request_id=request_id or str(uuid4()),
        )
        return self._through_restarts(lambda: self._client.submit_task(submission))

    def task(self, task_id: int) -> TaskView:
        """A task as it is now. Raises NotFound."""
        return self._through_restarts(lambda: self._client.get_task(task_id))

    def wait_task(self, task_id: int, timeout_s: float | None = None) -> TaskView:
        """The task once it has ended (succeeded, dead or cancelled), or as it is after timeout_s. An outage of PostgreSQL is waited for.

        Raises: NotFound; BrokerUnavailable, as watch().
        """
        end_at = math.inf if timeout_s is None else time.monotonic() + timeout_s
        away_at: float | None = None
        while True:
            wait_s = min(WAIT_TASK_S, max(0.05, end_at - time.monotonic()))
            try:
                view = self._client.wait_task(task_id, wait_s)
                self._check()
                away_at = None
                if view.is_ended or time.monotonic() >= end_at:
                    return view
            except (LedgerUnavailable, BrokerUnavailable) as exc:
                self._check()
                away_at = away_at or time.monotonic()
                is_patient = isinstance(exc, LedgerUnavailable) or time.monotonic() - away_at < AWAY_S
                if time.monotonic() >= end_at or not (is_patient or self._comes_back()):
                    raise
                time.sleep(RETRY_S)

    def cancel_task(self, task_id: int) -> TaskView:
        """Cancel a task that is ready or running; idempotent: what has ended stays as it is. Raises: NotFound; ConfigError: a chunk."""
        return self._through_restarts(lambda: self._client.cancel_task(task_id))

    def info(self) -> MasterInfo:
        """Where its services are."""
        return self._client.info()

    def enrol(self, host: str, versions: Versions) -> Enrolment:
        """What this host needs to work for the master. Raises: NotAllowed: it was removed; BrokerUnavailable."""
        return self._client.enrol(host, versions)

    def hosts(self) -> Sequence[HostView]:
        """The hosts of the cluster. Raises BrokerUnavailable."""
        return self._client.hosts().hosts

    def _through_restarts(self, call: Callable[[], T]) -> T:
        """The answer of the broker, or of the one that is started after it: for what is safe to repeat."""
        while True:
            try:
                return call()
            except BrokerUnavailable:
                self._check()
                if not self._comes_back():
                    raise
                time.sleep(RETRY_S)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
