"""A master as its clients see it: the gRPC face in the library's own values."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Self
from uuid import uuid4

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.wire import MasterInfo, Replay, Resumption, Submission, Submitted
from protheon_dask.errors import BrokerUnavailable, LedgerUnavailable
from protheon_dask.pipelines.pack import pack
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import RejectLimit
from protheon_dask.telemetry.statistics import RunStatistics

AWAY_S = 30.0
"""How long watch() bears a broker that does not answer."""
RETRY_S = 0.5


class Master:
    """A client of one master. A context manager; connects at the first call.

    check: asked with each picture of a run, and when the broker does not answer; raises where that is known to be for good.
    """

    def __init__(self, address: str, key: bytes | None = None, *, check: Callable[[], object] = lambda: None) -> None:
        self.address, self._key, self._check = address, key, check
        self._client = BrokerClient(address)

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
        return self._client.submit(
            Submission(
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
        )

    def watch(self, run_id: int) -> Iterator[RunStatistics]:
        """The run at once, then on change, at most twice a second, last as ended or paused.

        While PostgreSQL is away the last picture says so, and since when: an outage is waited for.
        Raises: BrokerUnavailable when the broker was away for AWAY_S, or is known not to come back; NotFound.
        """
        away_at: float | None = None
        latest: RunStatistics | None = None
        while True:
            try:
                for view in self._client.watch(run_id):
                    self._check()  # a broker that is ended cancels its runs first
                    away_at = None
                    latest = RunStatistics.from_json(view.statistics)
                    yield latest
                return
            except LedgerUnavailable as exc:
                self._check()
                if latest is None:
                    raise
                if latest.reason is None:
                    latest = dataclasses.replace(latest, reason=f"since {datetime.now(UTC):%H:%M:%S} UTC: {exc}")
                    yield latest
                time.sleep(RETRY_S)
            except BrokerUnavailable:
                self._check()
                away_at = away_at or time.monotonic()
                if time.monotonic() - away_at > AWAY_S:
                    raise
                time.sleep(RETRY_S)

    def get(self, run_id: int = 0) -> RunStatistics:
        """The run as it is now; 0 is the latest."""
        return RunStatistics.from_json(self._client.get(run_id).statistics)

    def cancel(self, run_id: int) -> RunStatistics:
        """Cancel a run; idempotent."""
        return RunStatistics.from_json(self._client.cancel(run_id).statistics)

    def pause(self, run_id: int, reason: str = "") -> RunStatistics:
        """Dispatch nothing more of a run; idempotent. What runs now is finished."""
        return RunStatistics.from_json(self._client.pause(run_id, reason).statistics)

    def resume(self, run_id: int, reject_limit: RejectLimit | None = None) -> RunStatistics:
        """Go on with a paused run, under another reject limit where one is given; idempotent."""
        limits = (reject_limit.lines, reject_limit.fraction) if reject_limit else (None, None)
        return RunStatistics.from_json(self._client.resume(Resumption(run_id, *limits)).statistics)

    def replay(self, run_id: int = 0, pipeline: Pipeline | None = None, reject_limit: RejectLimit | None = None) -> Submitted:
        """Ask for a run of what is still refused of a run, and of its replays, through this pipeline or the run's own.

        run_id 0 is the latest; of the answer: nothing is left that could be replayed now, and the notices say why.
        Raises: as submit(). Safe to repeat: lines that wait in a replay are left to it, and the answer is that run if it has all.
        """
        limits = (reject_limit.lines, reject_limit.fraction) if reject_limit else (None, None)
        packed = None if pipeline is None else pack(pipeline, self._key)
        return self._client.replay(Replay(run_id, packed, *limits, request_id=str(uuid4())))

    def undo(self, load_id: int) -> dict[str, int]:
        """Delete the rows of a load and return how many went, by table. Raises ConfigError: why not. Asked again, it goes on."""
        return self._client.undo(load_id).deleted_rows

    def info(self) -> MasterInfo:
        """Where its services are."""
        return self._client.info()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
