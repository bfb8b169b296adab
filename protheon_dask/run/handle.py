"""A run in the hands of a person: watched, waited for, steered, and its reports as DataFrames."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from protheon_dask.broker.wire import DeadLetters
from protheon_dask.errors import BrokerUnavailable, ProtheonError, StillRunning
from protheon_dask.pipelines.pipeline import Pipeline
from protheon_dask.policy import RejectLimit
from protheon_dask.run.frames import ROWS, report_frame
from protheon_dask.run.link import Link
from protheon_dask.run.live import LiveCard
from protheon_dask.run.report import check_target, page_of, write_page
from protheon_dask.run.reporting import STORY, VERIFICATION
from protheon_dask.run.statistics import was_interrupted
from protheon_dask.run.submitting import Loading, pipeline_of, reject_limit_of
from protheon_dask.run.verify import Verification
from protheon_dask.telemetry import card
from protheon_dask.telemetry.pace import Pace, Rates
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.telemetry.story import RunStory

if TYPE_CHECKING:
    import pandas as pd

    from protheon_dask.run.debug import Debugged


NOTHING_NAMED = DeadLetters((), notices=("no task was named",))
"""The answer to an empty choice, such as a filtered DataFrame's: to the master no task means all of a run."""


class Run:
    """A run of a cluster: what one load, or one replay, was asked for. Made by Cluster.load() and Cluster.run().

    It is a name and no more: the run goes on without it, and another kernel gets its own by ``cluster.run(id)``.
    Raises (each method): BrokerUnavailable, LedgerUnavailable: away at this moment; nothing is lost. ConfigError: the cluster is closed.
    Guarantee: thread-safe. Ctrl-C ends a wait, never the run.
    """

    def __init__(self, link: Link, run_id: int, loading: Loading | None = None) -> None:
        """loading: what it was made of, where this object may ask for it once more (Cluster.load())."""
        self._link, self._id, self._loading = link, run_id, loading
        self._generation = link.generation
        self._lock = Lock()
        self._pace = Pace()
        self._card = LiveCard(f"run {run_id}", self.pictures, link.dashboard_link)

    @property
    def id(self) -> int:
        """The run's number. It changes only where the command that ran the cluster has ended and this object went on as another run."""
        return self._id

    # --- how it is ----------------------------------------------------------------------------------------------------------

    def progress(self) -> RunStatistics:
        """The run in numbers as it is now: a frozen value, of committed work only."""
        picture = self._link.master.get(self._id)
        self._pace.add(picture, time.monotonic())
        return picture

    def rates(self) -> Rates:
        """What the last seconds brought, from the pictures that this object took."""
        return self._pace.rates(time.monotonic())

    def pictures(self, timeout: float | None = None) -> Iterator[RunStatistics]:
        """The run at once and whenever it changed, at most twice a second, last as ended or paused, or as it is after timeout seconds.

        An outage of PostgreSQL or the broker is waited for: the last picture says so, and since when. Where the cluster was another
        command's, and that command ends, another cluster takes its place and is asked for the same again: the run has a new number then.
        """
        end_at = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            generation, picture = self._generation, None
            try:
                for picture in self._link.master.watch(self._id, end_at):
                    self._pace.add(picture, time.monotonic())
                    yield picture
            except BrokerUnavailable:
                if self._link.is_closed or not self._goes_on(generation):
                    raise
            else:
                if picture is None or not was_interrupted(picture) or not self._goes_on(generation):
                    return

    def _goes_on(self, generation: int) -> bool:
        """Did the cluster end that the run was made in, and is the run gone on with in another one? The first who asks sees to it."""
        with self._lock:
            if self._generation == generation:
                if self._loading is None or not self._link.moved_on(generation):
                    return False
                self._generation = self._link.generation
                if was_interrupted(self._link.master.get(self._id)):  # else it has ended, or paused, by itself
                    self._loading = self._loading.to_go_on()
                    before, self._id = self._id, self._loading.submit(self._link.master).run_id
                    self._link.own(self._id)
                    self._link.tell([f"run {before} goes on as run {self._id}"] if before != self._id else [])
            return True

    def wait(self, timeout: float | None = None) -> RunStatistics:
        """Wait until the run has ended or paused, and return its last picture. A paused run waits for you: see its reason, and resume().

        timeout: seconds.
        Raises:  StillRunning (a TimeoutError): it had not ended by then; it runs on. KeyboardInterrupt likewise.
        """
        started_s = time.monotonic()
        latest: RunStatistics | None = None
        try:
            for picture in self.pictures(timeout):
                latest = picture
        except KeyboardInterrupt:  # raised anew: fifty lines of gRPC tell nobody that nothing is lost
            how_long = " as long as this process lives" if self._link.is_ours else ""
            raise KeyboardInterrupt(f"run {self._id} goes on{how_long}: cluster.run({self._id}).wait()") from None
        if latest is None or not latest.state.is_settled:
            raise StillRunning(self._id, time.monotonic() - started_s)
        self._card.settle(latest)
        return latest

    def watch(self) -> RunStatistics:
        """Show the run here, live, until it has ended or paused, and return its last picture. Ctrl-C ends the watch, not the run."""
        self._card.show()
        return self.wait()

    # --- what is done with it -----------------------------------------------------------------------------------------------

    def cancel(self) -> RunStatistics:
        """Cancel the run. What it has loaded stays; loading the same again goes on with it. Idempotent."""
        return self._link.master.cancel(self._id)

    def pause(self, reason: str = "") -> RunStatistics:
        """Begin no other chunk until resume(); those that are loading are finished. Idempotent."""
        return self._link.master.pause(self._id, reason)

    def resume(self, reject_limit: RejectLimit | int | float | str | None = None) -> RunStatistics:
        """Go on with a paused run, under another reject limit where one is given: 1000 lines, ``"60%"``, 0.6. Idempotent.

        Raises: ConfigError: the limit cannot be read.
        """
        resumed = self._link.master.resume(self._id, None if reject_limit is None else reject_limit_of(reject_limit))
        self._card.wake()
        return resumed

    def replay_rejects(
        self,
        pipeline: str | Pipeline | None = None,
        *,
        table: str | None = None,
        reject_limit: RejectLimit | int | float | str | None = None,
    ) -> Run | None:
        """Send what is still refused of the run through a pipeline again, exactly once; the new run. It returns at once.

        pipeline: the corrected one, as Cluster.load() takes it; None: the run's own, where the cause was elsewhere (a table, a key).
        Returns None where nothing is left that could be replayed now; it has said why.
        Raises:   ConfigError, NotFound: the pipeline or the table. Safe to repeat: lines that wait in a replay are left to it.
        """
        name = pipeline if pipeline is not None else ("jsonl" if table is not None else None)
        chosen = None if name is None else pipeline_of(name, table=table, paths=self.progress().paths)
        limit = None if reject_limit is None else reject_limit_of(reject_limit)
        submitted = self._link.master.replay(self._id, chosen, limit)
        self._link.tell(submitted.notices)
        if not submitted.run_id:
            return None
        self._link.own(submitted.run_id)
        return Run(self._link, submitted.run_id)

    def replay_dead_letters(self, task_ids: Iterable[int] | None = None) -> DeadLetters:
        """Make dead tasks ready again, all open ones of the run or those named; the run that had ended over them goes on. Idempotent.

        Raises: ConfigError: why one that was named cannot be; NotFound.
        """
        if (named := _named(task_ids)) == ():
            return NOTHING_NAMED
        replayed = self._link.master.replay_dead_letters(self._id, named or ())
        self._card.wake()
        return replayed

    def purge_dead_letters(self, task_ids: Iterable[int] | None = None) -> DeadLetters:
        """Give dead tasks up for good, all open ones of the run or those named: their bytes go, their letters stay. Idempotent."""
        named = _named(task_ids)
        return NOTHING_NAMED if named == () else self._link.master.purge_dead_letters(self._id, named or ())

    def verify(self, deep: bool = False) -> Verification:
        """Prove that every line of the run is accounted for once; deep: and that its rows are in their tables, as they were sent.

        The database is asked where it is known here, else the master: deep may take as long as reading the tables does.
        """
        [told] = self._link.report(VERIFICATION, self._id, None, everything=deep)
        return Verification.from_json(told)

    def story(self) -> RunStory:
        """The run from its submission to its end, or to now: its attempts one by one and over time; a frozen value of bounded size."""
        [told] = self._link.report(STORY, self._id, None)
        return RunStory.from_json(told)

    def report(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Write the run's story as one HTML file, which any browser shows with nothing else, and return where it is.

        path:   left out, ``run-3.html`` in the working directory.
        Raises: ConfigError: there is such a file, and overwrite is false; or it cannot be written.
        """
        target = Path(path if path is not None else f"run-{self._id}.html")
        check_target(target, overwrite=overwrite)
        write_page(page_of(self.story()), target, overwrite=overwrite)
        return target

    def debug(
        self,
        what: object = None,
        *,
        reject: int | None = None,
        task: int | None = None,
        line: int | None = None,
        path: str | os.PathLike[str] | None = None,
        pipeline: str | Pipeline | None = None,
        pdb: bool | None = None,
    ) -> Debugged:
        """Run a pipeline here, in this process, on the bytes that it failed on, and stop in the debugger, or raise, where it fails.

        what:     a row of rejects() or of dead_letters(), such as ``run.rejects().iloc[0]``; a number is reject's.
        reject, task, line: or its number: of a reject, of a dead letter's task, or of any line of the run's one file (else of path).
        path:     where this process finds the file, if the master has it elsewhere.
        pipeline: a mended one, to see whether it passes; None: the run's own, as it was submitted.
        pdb:      stop in the debugger; None: if a person can answer it here. It returns when they quit.
        Raises:   what the pipeline raises, with the line in its notes. ConfigError, NotFound: what is meant, its bytes or the pipeline
                  cannot be had here; the message says what to give.
        Guarantee: writes nothing. The same bytes, by checksum; the code that was submitted, by its signature.
        """
        from protheon_dask.run.debug import Reach, debug

        __tracebackhide__ = True  # IPython's word for a frame that tells a person nothing
        reach = Reach(self._link.known_url, self._link.master.address, self._link.master.key)
        return debug(self._id, reach, what, reject=reject, task=task, line=line, path=path, pipeline=pipeline, pdb=pdb)

    # --- reports ------------------------------------------------------------------------------------------------------------

    def files(self, limit: int | None = ROWS) -> pd.DataFrame:
        """The run's files with their loads and counts, a row a path.

        limit: rows at most, in this and the other reports; None: all. Where the default leaves rows out, a warning (MoreRows) says so,
               and ``attrs["more"]`` is true.
        """
        return self._report("files", limit)

    def chunks(self, limit: int | None = ROWS) -> pd.DataFrame:
        """The chunks of the run's files and the state of their tasks, by file and line."""
        return self._report("chunks", limit)

    def attempts(self, limit: int | None = ROWS) -> pd.DataFrame:
        """Attempts at the run's chunks, the newest first: who tried, how it ended, and where its seconds went."""
        return self._report("attempts", limit)

    def rejects(self, limit: int | None = ROWS, *, everything: bool = False) -> pd.DataFrame:
        """Lines, and parts of lines, that are still refused of the run's files, with their reason and their bytes (up to 64 KiB).

        everything: those that were replayed, too, behind the others.
        """
        return self._report("rejects", limit, everything=everything)

    def dead_letters(self, limit: int | None = ROWS, *, everything: bool = False) -> pd.DataFrame:
        """Chunks that were given up, the newest first, with the error of their last attempt. everything: replayed and purged ones, too."""
        return self._report("dead_letters", limit, everything=everything)

    def _report(self, name: str, limit: int | None, *, everything: bool = False) -> pd.DataFrame:
        return report_frame(name, self._link.report(name, self._id, limit, everything=everything), limit)

    # --- how it looks -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        try:
            return card.run_text(self.progress(), self.rates())
        except ProtheonError as error:
            return f"run {self._id}: {error}"

    def _repr_html_(self) -> str:
        try:
            return card.run_html(self.progress(), self.rates(), self._link.dashboard_link())
        except ProtheonError as error:
            return card.told_html(f"run {self._id}: {error}")

    def _ipython_display_(self) -> None:
        """At the end of a cell: the card, which is drawn anew until the run has ended or paused."""
        self._card.show()


def _named(task_ids: Iterable[int] | None) -> tuple[int, ...] | None:
    """Of a DataFrame's column, too: its numbers are numpy's."""
    return None if task_ids is None else tuple(int(task_id) for task_id in task_ids)
