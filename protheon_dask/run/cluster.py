"""A cluster in the hands of a person: everything embedded, or a master that runs already, by the same object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, overload

from protheon_dask import __version__
from protheon_dask.broker.wire import MasterInfo, TaskView
from protheon_dask.errors import ProtheonError, TransientError
from protheon_dask.ledger.connect import opened, place_of
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import RejectLimit
from protheon_dask.run.frames import MOST_ROWS, limit_of, report_frame, sql_frame
from protheon_dask.run.handle import Run
from protheon_dask.run.link import APPLICATION, Link
from protheon_dask.run.master import Master
from protheon_dask.run.submitting import Paths, loading, places_of
from protheon_dask.run.trust.identity import dask_security
from protheon_dask.telemetry import card
from protheon_dask.telemetry.statistics import RunStatistics

if TYPE_CHECKING:
    import distributed
    import pandas as pd

    from protheon_dask.run.collections import Chunks


CARD_RUNS: Final = 5
"""Runs on the card of a cluster."""
CLOSED: Final = "this cluster is closed"
CLIENT_S: Final = "30s"
"""How long Dask's client waits for its scheduler, at first and when that is restarted."""


class Cluster:
    """A cluster: runs, tasks, reports, and Dask's client. Made by ``protheon.local()`` and ``protheon.connect()``.

    A context manager; closed by close(), by the end of its block, or by the end of the interpreter. What it started itself ends then:
    runs that are not done are interrupted, and loading the same again goes on with them. A cluster that others run stays as it is.
    Raises (each method): BrokerUnavailable, LedgerUnavailable: away at this moment. ConfigError: it is closed.
    Guarantee: thread-safe, but for its beginning and its end.
    """

    def __init__(self, link: Link, *, security: distributed.Security | None = None) -> None:
        """security: how its Dask is spoken to; None: by this host's certificate, or in plaintext where it has none."""
        self._link, self._security = link, security
        self._lock = Lock()
        self._dask: distributed.Client | None = None
        self._dask_generation = 0

    # --- where it is --------------------------------------------------------------------------------------------------------

    @property
    def master(self) -> Master:
        """The gRPC client, in the library's own values."""
        return self._link.master

    @property
    def address(self) -> str:
        """The master's gRPC address: what connect() and clients in other languages take."""
        return self.master.address

    @property
    def url(self) -> str:
        """The URL of the PostgreSQL that is loaded into. It may hold a password.

        Raises: ConfigError: it is not known here, as with a master that is elsewhere; connect(.., into=URL) gives it.
        """
        return self._link.url

    @property
    def has_database(self) -> bool:
        """Is the database known here? Reports are read from it then, and by the master otherwise."""
        return self._link.known_url is not None

    def info(self) -> MasterInfo:
        """Version, addresses and threads of the cluster, as its master says."""
        return self.master.info()

    @property
    def dashboard_link(self) -> str:
        """The page that shows the cluster at work: ours where its scheduler has it, else Dask's own."""
        return self._link.dashboard_link()

    @property
    def client(self) -> distributed.Client:
        """Dask's client of the cluster's scheduler, connected when it is first asked for, and the default one from then on.

        Raises: TransientError: the scheduler does not answer.
        """
        with self._lock:
            address = self.info().scheduler_address
            if self._dask is not None and (self._dask.status in ("closed", "closing") or self._dask_generation != self._link.generation):
                self._dask.close()  # type: ignore[no-untyped-call]  # distributed has no types
                self._dask = None
            if self._dask is None:
                from distributed import Client

                security = self._security or dask_security(self.master.tls)
                try:
                    self._dask = Client(address, timeout=CLIENT_S, name=APPLICATION, security=security)  # type: ignore[no-untyped-call]
                except OSError as exc:
                    raise TransientError(f"Dask's scheduler at {address} does not answer: {exc}") from exc
                self._dask_generation = self._link.generation
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
        if self._link.is_here:
            chosen.check_here()
        submitted = chosen.submit(self.master)
        self._link.own(submitted.run_id)
        return Run(self._link, submitted.run_id, chosen)

    def run(self, id: int | None = None) -> Run:
        """A run by its number, whoever started it, from any kernel; None: the latest. Raises NotFound."""
        return Run(self._link, self.master.get(id or 0).run)

    def runs(self, limit: int | None = 20) -> Runs:
        """The newest runs, newest first. limit: 1 or more; None: all."""
        most = limit_of(limit, least=1)  # to the master 0 is its default
        return Runs(self._link, self.master.runs(MOST_ROWS - 1 if most is None else most))

    # --- the database -------------------------------------------------------------------------------------------------------

    def sql(self, query: str) -> pd.DataFrame:
        """The answer of PostgreSQL to one statement that only reads.

        Raises: ConfigError: it would change something, PostgreSQL does not take it, or the database is not known here (url).
        """
        from protheon_dask.ledger.reports import query as ask

        with opened(self.url, application=APPLICATION) as conn:
            return sql_frame(*ask(conn, query, "cluster.sql"))

    # --- the rest of Dask ---------------------------------------------------------------------------------------------------

    def chunks(self, paths: Paths, chunk_lines: int | None = None, limit: int | None = None, ttl_s: float = 3_600.0) -> Chunks:
        """Cut line files, and return a list of ``dask.delayed`` objects: each is the list of one chunk's lines, as bytes.

        Nothing is loaded. The lines come over the same stream as a run's, wherever the task runs. Blank lines are left out; lines beyond
        max_line_bytes, and what is damaged, are left out and said.
        paths:       as in load().
        chunk_lines: left out, what suits the files and the number of workers; at most 64 MiB of lines in any case.
        limit:       chunks at most, 1 or more, from the first file on; None: all.
        ttl_s:       how long the files stay after this process was last heard of. It is heard of as long as the list, or a collection
                     that was made of it, exists; close() deletes them at once.
        Raises:      NotFound, ConfigError: a path, an option. WorkspaceFull: not so much at a time. SourceUnavailable. SourceChanged.
        Guarantee:   works through a lost worker and a restart of the broker. A task that reads a chunk gives way to chunks of runs.
        """
        from protheon_dask.run.collections import pin_chunks

        chunks = pin_chunks(
            self.master,
            tuple(places_of(paths)),
            chunk_lines=chunk_lines,
            limit=limit,
            ttl_s=ttl_s,
            say=lambda told: self._link.tell([told]),
        )
        self._link.tell(chunks.notices)
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
        ends them, too. Our own are interrupted, and named with how far they were: loading the same again goes on with them.
        """
        with self._lock:
            if self._dask is not None:
                self._dask.close()  # type: ignore[no-untyped-call]
                self._dask = None
        self._link.close(wait_others=wait_others)

    @property
    def is_closed(self) -> bool:
        """Has it ended? Its methods raise ConfigError then."""
        return self._link.is_closed

    @property
    def is_ours(self) -> bool:
        """Did this object start the cluster, which then ends with it?"""
        return self._link.is_ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self.close(wait_others=value is None)

    # --- how it looks -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return CLOSED if self.is_closed else card.cluster_text(self._facts())

    def _repr_html_(self) -> str:
        return card.told_html(CLOSED) if self.is_closed else card.cluster_html(self._facts())

    def _facts(self) -> card.ClusterFacts:
        """What its card tells; what is away is named."""
        database = None if self._link.known_url is None else str(place_of(self._link.known_url))
        master = self.master
        try:
            info, runs, page = self.info(), master.runs(CARD_RUNS), self._link.dashboard_link()
        except ProtheonError as error:
            return card.ClusterFacts(__version__, master.address, 0, database, missing=(str(error),))
        return card.ClusterFacts(
            info.version, master.address, info.n_threads, database, page, tuple(runs), dashboard_way=self._link.dashboard_way(page)
        )


class Runs(Sequence[Run]):
    """Runs of a cluster, newest first, as they were when they were asked for. ``to_frame()`` has them in numbers."""

    def __init__(self, link: Link, pictures: Sequence[RunStatistics]) -> None:
        self._link, self.pictures = link, tuple(pictures)

    def to_frame(self) -> pd.DataFrame:
        """As many runs as are here, newest first, as they are now: a row each."""
        limit = len(self.pictures)
        return report_frame("runs", self._link.report("runs", limit=limit), limit)

    def __len__(self) -> int:
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        if isinstance(index, slice):
            return Runs(self._link, self.pictures[index])
        return Run(self._link, self.pictures[index].run)

    def __iter__(self) -> Iterator[Run]:
        return (Run(self._link, picture.run) for picture in self.pictures)

    def __repr__(self) -> str:
        return card.runs_text(self.pictures)

    def _repr_html_(self) -> str:
        return card.runs_html(self.pictures)
