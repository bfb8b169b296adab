"""A cluster in the hands of a person: everything embedded, or a master that runs already, by the same object."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, overload
from urllib.parse import urlsplit

from protheon_dask import __version__
from protheon_dask.broker.wire import MasterInfo, TaskView
from protheon_dask.errors import ConfigError, ProtheonError, TransientError
from protheon_dask.ledger.connect import opened, place_of
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import RejectLimit
from protheon_dask.run import reporting
from protheon_dask.run.frames import ROWS, report_frame, sql_frame
from protheon_dask.run.handle import Run
from protheon_dask.run.local import LocalCluster
from protheon_dask.run.master import Master
from protheon_dask.run.submitting import Paths, loading, places_of
from protheon_dask.telemetry import card
from protheon_dask.telemetry.statistics import RunStatistics

if TYPE_CHECKING:
    import distributed
    import pandas as pd

    from protheon_dask.run.collections import Chunks

APPLICATION: Final = "protheon-notebook"
CARD_RUNS: Final = 5
"""Runs on the card of a cluster."""
CLOSED: Final = "this cluster is closed"
PAGE: Final = "/protheon"
"""Where our page is in Dask's dashboard, if the scheduler has it."""
PAGE_LOOK_S: Final = 2.0
TAKE_OVERS: Final = 5
"""Starts of a cluster in the place of one that has ended, until what keeps them from it is an error."""
TAKE_OVER_PAUSE_S: Final = 0.5
"""Between two of them: what belongs to the one that ended, its PostgreSQL too, ends within that, or is waited for."""
CLIENT_S: Final = "30s"
"""How long Dask's client waits for its scheduler, at first and when that is restarted."""


class Cluster:
    """A cluster: runs, tasks, reports, and Dask's client. Made by ``protheon.local()`` and ``protheon.connect()``.

    A context manager; closed by close(), by the end of its block, or by the end of the interpreter. What it started itself ends then:
    runs that are not done are interrupted, and loading the same again goes on with them. A cluster that others run stays as it is.
    Raises (each method): BrokerUnavailable, LedgerUnavailable: away at this moment. ConfigError: it is closed.
    Guarantee: thread-safe, but for its beginning and its end.
    """

    def __init__(self, master: Master, url: str | None, *, say: Callable[[str], object]) -> None:
        """url: of the ledger's database, where it is known here. say: for words to the person."""
        self._master, self._url, self._say = master, url, say
        self._local: LocalCluster | None = None
        self._start: Callable[[bool], LocalCluster] | None = None
        self._lock = RLock()
        self._owner_pid = os.getpid()
        self._is_closed = False
        self._own_runs: set[int] = set()
        self._dask: distributed.Client | None = None
        self._generation = 0

    @classmethod
    def started(cls, start: Callable[[bool], LocalCluster], *, say: Callable[[str], object]) -> Self:
        """A cluster of this machine, which starts now. start: makes one; True: after one that has ended just now (takes_over)."""
        local = start(False).__enter__()
        made = cls(local.client, local.url, say=say)
        made._local, made._start = local, start
        return made

    # --- where it is --------------------------------------------------------------------------------------------------------

    @property
    def master(self) -> Master:
        """The gRPC client. Raises ConfigError: the cluster is closed."""
        if self._is_closed:
            raise ConfigError("this cluster is closed: make another one by protheon.local() or protheon.connect()")
        if self._local is not None and self._local.is_gone():
            self._take_over()
        return self._master

    @property
    def address(self) -> str:
        """The master's gRPC address: what connect() and clients in other languages take."""
        return self.master.address

    @property
    def url(self) -> str:
        """The URL of the PostgreSQL that is loaded into. It may hold a password.

        Raises: ConfigError: it is not known here, as with a master that is elsewhere; connect(.., into=URL) gives it.
        """
        if self._url is None:
            raise ConfigError(
                f"the database of the master at {self._master.address} is not known here: "
                "give it, protheon.connect(.., into='postgresql://user@host:5432/database')"
            )
        return self._url

    @property
    def has_database(self) -> bool:
        """Is the database known here? Reports are read from it then, and by the master otherwise."""
        return self._url is not None

    def info(self) -> MasterInfo:
        """Version, addresses and threads of the cluster, as its master says."""
        return self.master.info()

    @property
    def dashboard_link(self) -> str:
        """The page that shows the cluster at work: ours where its scheduler has it, else Dask's own."""
        return page_of(self.info().dashboard_link)

    @property
    def client(self) -> distributed.Client:
        """Dask's client of the cluster's scheduler, connected when it is first asked for, and the default one from then on.

        Raises: TransientError: the scheduler does not answer.
        """
        with self._lock:
            if self._dask is None or self._dask.status in ("closed", "closing"):
                from distributed import Client

                address = self.info().scheduler_address
                try:
                    self._dask = Client(address, timeout=CLIENT_S, name=APPLICATION)  # type: ignore[no-untyped-call]  # distributed has no types
                except OSError as exc:
                    raise TransientError(f"Dask's scheduler at {address} does not answer: {exc}") from exc
            return self._dask

    # --- runs ---------------------------------------------------------------------------------------------------------------

    def load(
        self,
        paths: Paths,
        pipeline: str | Pipeline = "jsonl",
        *,
        table: str | None = None,
        chunk_lines: int | Literal["auto"] | None = None,
        reject_limit: RejectLimit | int | float | str | None = None,
        again: bool = False,
        replace: bool = False,
        checksum: bool = False,
    ) -> Run:
        """Load line files into PostgreSQL, every line exactly once, and return the run at once.

        paths:        files, directories, globs or fsspec URLs, one or a list, as the master sees them.
        pipeline:     ``jsonl``, ``pgcr``, an entry point, ``module:name``, ``file.py:name``, or one of your own from a cell.
        table:        only for jsonl: its target; left out, it is named after the first path.
        chunk_lines:  left out, what suits the files and the number of workers.
        reject_limit: rejected lines that the run bears: 1000, ``"5%"``, 0.05; beyond, it pauses. Left out, the cluster's.
        again:        load finished files once more, by the tables' conflict rules.
        replace:      undo the old loads of these files first, where they can be undone.
        checksum:     keep checksums of the rows, for ``verify(deep=True)``.
        Raises:       ConfigError, NotFound: a path, the pipeline, the table or an option. SourceUnavailable.
        Guarantee:    safe to repeat: what is loaded is skipped, what was begun is gone on with.
        """
        chosen = loading(
            paths,
            pipeline,
            table=table,
            chunk_lines=chunk_lines,
            reject_limit=reject_limit,
            again=again,
            replace=replace,
            checksum=checksum,
        )
        if self._local is not None:
            chosen.check_here()
        submitted = chosen.submit(self.master)
        self.own(submitted.run_id)
        return Run(self, submitted.run_id, chosen)

    def run(self, id: int | None = None) -> Run:
        """A run by its number, whoever started it, from any kernel; None: the latest. Raises NotFound."""
        return Run(self, self.master.get(id or 0).run)

    def runs(self, limit: int = 20) -> Runs:
        """The newest runs, newest first."""
        return Runs(self, self.master.runs(limit))

    # --- the database -------------------------------------------------------------------------------------------------------

    def sql(self, query: str) -> pd.DataFrame:
        """The answer of PostgreSQL to one statement that only reads.

        Raises: ConfigError: it would change something, PostgreSQL does not take it, or the database is not known here (url).
        """
        from protheon_dask.ledger.reports import query as ask

        with opened(self.url, application=APPLICATION) as conn:
            return sql_frame(*ask(conn, query))

    def report(self, name: str, run_id: int = 0, limit: int | None = ROWS, *, everything: bool = False) -> list[Mapping[str, Any]]:
        """Rows of a named report, one more than limit where there are more: from the database where it is known here, else by the master.

        Raises: ConfigError: there is no such report; the message names them. NotFound: no such run.
        """
        most = None if limit is None else limit + 1
        if self._url is None:
            return list(self.master.report(name, run_id, most, everything=everything))
        with opened(self._url, application=APPLICATION) as conn:
            return list(reporting.rows(conn, name, run_id, most, everything=everything))

    # --- the rest of Dask ---------------------------------------------------------------------------------------------------

    def chunks(self, paths: Paths, chunk_lines: int | None = None, limit: int | None = None, ttl_s: float = 3_600.0) -> Chunks:
        """Cut line files, and return a list of ``dask.delayed`` objects: each is the list of one chunk's lines, as bytes.

        Nothing is loaded. The lines come over the same stream as a run's, wherever the task runs. Blank lines are left out; lines beyond
        max_line_bytes, and what is damaged, are left out and said.
        paths:       as in load().
        chunk_lines: left out, what suits the files and the number of workers; at most 64 MiB of lines in any case.
        limit:       chunks at most, from the first file on.
        ttl_s:       how long the files stay after this process was last heard of. It is heard of as long as the list, or a collection
                     that was made of it, exists; close() deletes them at once.
        Raises:      NotFound, ConfigError: a path, an option. WorkspaceFull: not so much at a time. SourceUnavailable. SourceChanged.
        Guarantee:   works through a lost worker and a restart of the broker. A task that reads a chunk gives way to chunks of runs.
        """
        from protheon_dask.run.collections import pin_chunks

        chunks = pin_chunks(self.master, tuple(places_of(paths)), chunk_lines=chunk_lines, limit=limit, ttl_s=ttl_s)
        self.tell(chunks.notices)
        _ = self.client  # from now on Dask computes on this cluster, and not in this process
        return chunks

    # --- tasks of the general queue -----------------------------------------------------------------------------------------

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
        """Have a function run on a worker: ``module:name`` of one that protheon.task decorates. See Master.submit_task()."""
        return self.master.submit_task(
            handler,
            payload,
            priority=priority,
            delay_s=delay_s,
            visibility_timeout_s=visibility_timeout_s,
            max_failures=max_failures,
            request_id=request_id,
        )

    def task(self, task_id: int) -> TaskView:
        """A task as it is now. Raises NotFound."""
        return self.master.task(task_id)

    def wait_task(self, task_id: int, timeout_s: float | None = None) -> TaskView:
        """The task once it has ended (succeeded, dead or cancelled), or as it is after timeout_s. Raises NotFound."""
        return self.master.wait_task(task_id, timeout_s)

    def cancel_task(self, task_id: int) -> TaskView:
        """Cancel a task that is ready or running; idempotent: what has ended stays as it is. Raises: NotFound; ConfigError: a chunk."""
        return self.master.cancel_task(task_id)

    # --- its end ------------------------------------------------------------------------------------------------------------

    def close(self, *, wait_others: bool = True) -> None:
        """End what this object started; a cluster that others run stays. Idempotent.

        Runs of other commands and kernels that use a cluster of ours are waited for, and named, unless wait_others is false; Ctrl-C
        ends them, too. Our own are interrupted.
        """
        if self._is_closed or os.getpid() != self._owner_pid:  # a fork of this process has no cluster
            return
        self._is_closed = True
        with ExitStack() as stack:
            stack.callback(self._master.close)
            if self._local is not None:
                stack.push(self._local.__exit__)
            if self._dask is not None:
                stack.callback(self._dask.close)
            if self._local is not None and wait_others:
                self._local.wait_others(self._say, self._own_runs)

    @property
    def is_closed(self) -> bool:
        """Has it ended? Its methods raise ConfigError then."""
        return self._is_closed

    @property
    def is_ours(self) -> bool:
        """Did this object start the cluster, which then ends with it?"""
        return self._local is not None and self._local.is_ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self.close(wait_others=value is None)

    # --- the end of a cluster that was another's --------------------------------------------------------------------------------

    def moved_on(self, generation: int) -> bool:
        """Has the command ended that ran the cluster in which this generation's runs were made? Another cluster takes its place then."""
        with self._lock:
            if generation == self._generation and self._local is not None:
                self._local.wait_gone()  # its command may be ending it at this moment
                if self._local.is_gone():
                    self._take_over()
            return generation != self._generation

    def _take_over(self) -> None:
        """Start a cluster, or join the one that another survivor started, in the place of one that has ended with its command."""
        with self._lock:
            if self._local is None or self._start is None or not self._local.is_gone():
                return
            self._say("the command that ran the cluster has ended: starting one of our own")
            self._local.__exit__(None, None, None)
            for n in range(TAKE_OVERS, -1, -1):
                try:
                    self._local = self._start(True).__enter__()
                    break
                except TransientError:  # nothing could be started beside what is still ending
                    if not n:
                        raise
                    time.sleep(TAKE_OVER_PAUSE_S)
            self._master, self._url = self._local.client, self._local.url
            self._generation += 1
            if self._dask is not None:
                self._dask.close()  # type: ignore[no-untyped-call]
                self._dask = None

    # --- for runs -----------------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """It rises when another cluster takes this one's place."""
        return self._generation

    def own(self, run_id: int) -> None:
        """Keep in mind that a run is this object's own."""
        self._own_runs.add(run_id)

    def tell(self, notices: Iterable[str]) -> None:
        """Say what the master had to say."""
        for notice in notices:
            self._say(notice)

    # --- how it looks -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return CLOSED if self._is_closed else card.cluster_text(self._facts())

    def _repr_html_(self) -> str:
        return card.told_html(CLOSED) if self._is_closed else card.cluster_html(self._facts())

    def _facts(self) -> card.ClusterFacts:
        """What its card tells; what is away is named."""
        database = None if self._url is None else str(place_of(self._url))
        try:
            info, runs = self.info(), self.master.runs(CARD_RUNS)
        except ProtheonError as error:
            return card.ClusterFacts(__version__, self._master.address, 0, database, missing=(str(error),))
        return card.ClusterFacts(info.version, self.address, info.n_threads, database, page_of(info.dashboard_link), tuple(runs))


class Runs(Sequence[Run]):
    """Runs of a cluster, newest first, as they were when they were asked for. ``to_frame()`` has them in numbers."""

    def __init__(self, cluster: Cluster, pictures: Sequence[RunStatistics]) -> None:
        self._cluster, self.pictures = cluster, tuple(pictures)

    def to_frame(self) -> pd.DataFrame:
        """As many runs as are here, newest first, as they are now: a row each."""
        limit = len(self.pictures)
        return report_frame("runs", self._cluster.report("runs", limit=limit), limit)

    def __len__(self) -> int:
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        if isinstance(index, slice):
            return Runs(self._cluster, self.pictures[index])
        return Run(self._cluster, self.pictures[index].run)

    def __iter__(self) -> Iterator[Run]:
        return (Run(self._cluster, picture.run) for picture in self.pictures)

    def __repr__(self) -> str:
        return card.runs_text(self.pictures)

    def _repr_html_(self) -> str:
        return card.runs_html(self.pictures)


def page_of(dashboard_link: str) -> str:
    """Our page of the dashboard that this link is of, where the scheduler has it; else the link itself."""
    parts = urlsplit(dashboard_link)
    page = f"{parts.scheme}://{parts.netloc}{PAGE}"
    try:
        with urllib.request.urlopen(page, timeout=PAGE_LOOK_S) as answer:
            return page if answer.status == 200 else dashboard_link
    except (OSError, ValueError, urllib.error.HTTPError):
        return dashboard_link
