"""Takes a picture of the cluster once a second, in the broker's process: for HTTP, for the gRPC service, and for the dashboard's pages.

Telemetry drops rather than blocks. Each thing that may be slow has a thread of its own: the ledger is asked by one, the scheduler is told
by another, stories are read by a third, and the picture itself is made from what these know, so that there is a new one every second,
which says what is missing, whoever hangs. Nothing of it is waited for by the coordinator.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final, Protocol

from protheon_dask import __version__
from protheon_dask.errors import NotFound, ProtheonError
from protheon_dask.ledger.connect import Connection, connect, translated
from protheon_dask.run.dask_link import DaskLink
from protheon_dask.run.looking import LedgerLook, LedgerView
from protheon_dask.run.story import story_of
from protheon_dask.telemetry.board import SHARE, TAKE_PICTURE, TAKE_STORY, to_bytes
from protheon_dask.telemetry.bound import bound_of
from protheon_dask.telemetry.flow import FlowWindow
from protheon_dask.telemetry.picture import LOST, STALE_S, ClusterPicture, Totals
from protheon_dask.telemetry.story import RunStory
from protheon_dask.telemetry.workers import Workers
from protheon_dask.words import since_epoch
from protheon_dask.workspace.chunkfile import ChunkStore

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
FAILED_S: Final = 60.0
"""A story that could not be read is asked for again after at most this long, and after a while that fits the time that it took."""
SEND_S: Final = 3.0
"""How long the scheduler may take to answer a picture, of which it gets the latest only."""
NO_PRELOAD_S: Final = 10.0
"""A scheduler without our plugin is offered a picture that seldom: it writes a line into its log each time."""
PREPARED_AFTER: Final = 3
"""Executions after which a statement is prepared: planning the same ones each second was most of what the looks cost the database."""
APPLICATION: Final = "protheon-telemetry"


class Led(Protocol):
    """What a picture asks of the coordinator, from another thread."""

    @property
    def dask(self) -> DaskLink: ...
    @property
    def ledger_lost_at(self) -> float | None: ...
    @property
    def waiting_for(self) -> str | None: ...
    @property
    def round_at(self) -> float:
        """When its last round ended, in seconds of the epoch."""
        ...


class Taker:
    """A context manager. latest() is thread-safe, and waits for nothing.

    url:            of the ledger, past any pooler: statements are prepared in the session.
    owns_scheduler: the scheduler is ours, so that a missing plugin is a fault.
    """

    def __init__(self, url: str, led: Led, store: ChunkStore, *, owns_scheduler: bool) -> None:
        self._url, self._led, self._store, self._owns_scheduler = url, led, store, owns_scheduler
        self._started_at = time.time()
        self._latest: ClusterPicture | None = None
        self._view: LedgerView | None = None
        self._viewed_at: float | None = None  # when it was seen
        self._ledger_trouble: str | None = None
        self._plugin_lost_at: float | None = self._started_at  # since when the scheduler's plugin does not answer
        self._plugin_trouble = "it was not asked yet"
        self._flow, self._workers, self._asked_no = FlowWindow(), Workers(), 0
        self._counted: Totals | None = None
        self._wishes: tuple[float, list[int]] = (0.0, [])  # when the scheduler was asked for them, and runs whose stories it wants
        self._stopping = threading.Event()
        self._taken, self._asked = threading.Event(), threading.Event()  # a new picture; stories that are wanted
        works = (("picture-ledger", self._look), ("picture", self._take), ("picture-sender", self._send), ("picture-stories", self._tell))
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works]

    def latest(self) -> ClusterPicture | None:
        """The picture of this second; None: there was none yet."""
        return self._latest

    def __enter__(self) -> Taker:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; who hangs is left behind, and ends with the process."""
        self._stopping.set()
        self._taken.set()
        self._asked.set()

    # --- the threads ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask the ledger."""
        look = LedgerLook(time.monotonic)
        conn: Connection | None = None
        while not self._stopping.is_set():
            try:
                if conn is None:
                    conn = connect(self._url, application=APPLICATION)
                    conn.prepare_threshold = PREPARED_AFTER
                with translated(self._url):
                    self._view = look.look(conn)
                self._viewed_at, self._ledger_trouble = time.time(), None
            except NotFound:  # a run that was there a moment ago: another database
                _close(conn)
                conn, look = None, LedgerLook(time.monotonic)
            except ProtheonError as exc:  # an outage, a refusal, a table that was altered under a prepared statement: asked again
                _close(conn)
                conn = None
                self._ledger_trouble = str(exc)
            self._stopping.wait(PERIOD_S)
        _close(conn)

    def _take(self) -> None:
        """Make the picture."""
        while not self._stopping.is_set():
            self._latest = self._picture()
            self._taken.set()
            self._stopping.wait(PERIOD_S)

    def _send(self) -> None:
        """Bring the scheduler's plugin the latest picture, and learn which stories its pages want."""
        while not self._stopping.is_set():
            self._taken.wait()
            self._taken.clear()
            picture = self._latest
            if picture is None or self._stopping.is_set():
                continue
            asked_s = time.monotonic()
            try:
                answer = self._led.dask.call(TAKE_PICTURE, SEND_S, told=to_bytes(picture))
                if answer is None:  # Dask's answer on a connection that was used before, where there is no such handler
                    raise OSError("nobody there takes pictures")
                if self._plugin_lost_at is not None:
                    self._plugin_lost_at = None
                    logger.info("dashboard.told")
                self._wishes = asked_s, [int(run) for run in answer["wanted"]]
                if answer["wanted"]:
                    self._asked.set()
            except Exception as exc:  # noqa: BLE001  # a scheduler that goes, or is another version: whatever it says, pictures go on
                if self._plugin_lost_at is None:
                    self._plugin_lost_at = time.time()
                self._plugin_trouble = f"{type(exc).__name__}: {exc}"
                if self._led.dask.seen().trouble is None:  # it answers others
                    self._stopping.wait(NO_PRELOAD_S)

    def _tell(self) -> None:
        """Read the stories that pages want, and bring them. While one is read, pages go on wishing for it."""
        conn: Connection | None = None
        answered_s: dict[int, float] = {}  # run -> a wish from before then is answered, or failed
        while not self._stopping.is_set():
            self._asked.wait()
            self._asked.clear()
            wished_s, wanted = self._wishes
            answered_s = {run: at_s for run, at_s in answered_s.items() if at_s > wished_s}
            for run in wanted:
                if self._stopping.is_set():
                    break
                if run in answered_s:
                    continue
                took_s = rest_s = 0.0
                try:
                    conn = conn or connect(self._url, application=APPLICATION)
                    began_s = time.monotonic()
                    try:
                        story = self._story(conn, run)
                    finally:
                        took_s = time.monotonic() - began_s
                    told = None if story is None else to_bytes(story)
                    self._led.dask.call(TAKE_STORY, SEND_S, run=run, told=told, took_s=took_s)
                except Exception as exc:  # noqa: BLE001  # as above: the page asks again
                    _close(conn)
                    conn, rest_s = None, min(FAILED_S, took_s / SHARE)
                    logger.warning("story.failed", extra={"run_id": run, "error": str(exc)})
                answered_s[run] = time.monotonic() + rest_s
        _close(conn)

    def _story(self, conn: Connection, run: int) -> RunStory | None:
        try:
            with translated(self._url):
                return story_of(conn, run)
        except NotFound:
            return None

    # --- the picture ----------------------------------------------------------------------------------------------------

    def _picture(self) -> ClusterPicture:
        now_s, now_at, view = time.monotonic(), time.time(), self._view
        scheduler = self._led.dask.seen()
        if scheduler.asked_no != self._asked_no:
            self._asked_no = scheduler.asked_no
            self._workers.take(scheduler.workers, now_s)
        totals = view.totals if view is not None else Totals()
        if view is not None and view.counted_at is not None and totals is not self._counted:
            self._counted = totals
            self._flow.add(totals, now_s)
        workers, stage_seconds = self._workers.pictures(now_s), self._workers.stage_seconds(now_s)
        here = [worker for worker in workers if worker.status != LOST]
        utilization = sum(worker.utilization for worker in here) / len(here) if here else 0.0
        look_ahead = view.look_ahead_chunks if view is not None else 0
        return ClusterPicture(
            at=now_at,
            version=__version__,
            uptime_s=now_at - self._started_at,
            missing=self._missing(scheduler.trouble, scheduler.trouble_since_at, now_at),
            totals=totals,
            flow=self._flow.flow(now_s),
            runs=view.runs if view is not None else (),
            workers=workers,
            stage_seconds=stage_seconds,
            oldest_ready_s=view.oldest_ready_s if view is not None else None,
            workspace_bytes=self._store.live_bytes,
            workspace_quota_bytes=self._store.quota_bytes,
            look_ahead_chunks=look_ahead,
            hosts_aside=view.hosts_aside if view is not None else (),
            counted_at=view.counted_at if view is not None else None,
            bound=bound_of(
                stage_seconds,
                len(here),
                n_cores=self._workers.n_cores(),
                utilization=utilization,
                n_ready=look_ahead,
                is_cutting=any(not run.state.is_final and not run.split_done for run in (view.runs if view is not None else ())),
            ),
        )

    def _missing(self, scheduler_trouble: str | None, scheduler_since_at: float, now_at: float) -> tuple[str, ...]:
        """What keeps work from flowing, with since when."""
        led, told = self._led, []
        seen_at = self._viewed_at or self._started_at
        if (lost_at := led.ledger_lost_at) is not None:
            told.append(since_epoch(lost_at, f"PostgreSQL is away: {led.waiting_for or 'its connection was lost'}"))
        elif self._ledger_trouble is not None and now_at - seen_at > STALE_S:
            told.append(since_epoch(seen_at, f"PostgreSQL does not answer: {self._ledger_trouble}"))
        elif now_at - led.round_at > STALE_S:
            told.append(since_epoch(led.round_at, "the broker leads, and its coordinator has not come round"))
        if scheduler_trouble is not None:
            told.append(since_epoch(scheduler_since_at, f"the Dask scheduler does not answer: {scheduler_trouble}"))
        elif self._owns_scheduler and (lost_at := self._plugin_lost_at) is not None and now_at - lost_at > STALE_S:
            told.append(since_epoch(lost_at, f"the dashboard's preload is not with the Dask scheduler: {self._plugin_trouble}"))
        return tuple(told)


def _close(conn: Connection | None) -> None:
    if conn is not None:
        conn.close()
