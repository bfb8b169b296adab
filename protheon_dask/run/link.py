"""What a cluster object and its runs share: the master and the database they talk to, and what becomes of both when a cluster ends."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPException
from threading import RLock
from typing import Any, Final, Self
from urllib.parse import urlsplit

from protheon_dask import words
from protheon_dask.broker.peers import is_loopback
from protheon_dask.errors import ConfigError, ProtheonError, TransientError
from protheon_dask.ledger.connect import opened
from protheon_dask.run import reporting
from protheon_dask.run.addresses import LOOPBACK, is_here
from protheon_dask.run.frames import ROWS, limit_of
from protheon_dask.run.local import LocalCluster
from protheon_dask.run.master import Master
from protheon_dask.telemetry import card
from protheon_dask.telemetry.ended import replayed_run

APPLICATION: Final = "protheon-notebook"
PAGE: Final = "/protheon"
"""Where our page is in Dask's dashboard, if the scheduler has it."""
PANELS: Final = "/individual-plots.json", b'"/individual-protheon-'
"""Dask's list of panels, and what is in it where our pages are. The page itself would be made for each look: seconds on a busy machine."""
PAGE_LOOK_S: Final = 5.0
_DIRECTLY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A cluster is reached as gRPC reaches it, without the proxy that the environment names for the rest of the world."""
TAKE_OVERS: Final = 5
"""Starts of a cluster in the place of one that has ended, until what keeps them from it is an error."""
TAKE_OVER_PAUSE_S: Final = 0.5
"""Between two of them: what belongs to the one that ended, its PostgreSQL too, ends within that, or is waited for."""


class Link:
    """The way to a cluster. Thread-safe, but for its beginning and its end.

    say: for words to the person.
    """

    def __init__(self, master: Master, url: str | None, *, say: Callable[[str], object]) -> None:
        """url: of the ledger's database, where it is known here."""
        self._master, self._url, self._say = master, url, say
        self._local: LocalCluster | None = None
        self._start: Callable[[bool], LocalCluster] | None = None
        self._lock = RLock()
        self._owner_pid = os.getpid()
        self._own_runs: set[int] = set()
        self.is_closed = False
        self.generation = 0
        """It rises when another cluster takes the place of one that has ended with its command."""

    @classmethod
    def started(cls, start: Callable[[bool], LocalCluster], *, say: Callable[[str], object]) -> Self:
        """A link to a cluster of this machine, which starts now. start: makes one; True: after one that has ended (takes_over)."""
        local = start(False).__enter__()
        made = cls(local.client, local.url, say=say)
        made._local, made._start = local, start
        return made

    @property
    def master(self) -> Master:
        """The gRPC client. Raises ConfigError: the cluster is closed."""
        if self.is_closed:
            raise ConfigError("this cluster is closed: make another one by protheon.local() or protheon.connect()")
        if self._local is not None and self._local.is_gone():
            self._take_over()
        return self._master

    @property
    def known_url(self) -> str | None:
        """The database's URL, where it is known here."""
        return self._url

    @property
    def url(self) -> str:
        """The database's URL. Raises ConfigError: it is not known here."""
        if self._url is None:
            raise ConfigError(
                f"the database of the master at {self._master.address} is not known here: "
                "give it, protheon.connect(.., into='postgresql://user@host:5432/database')"
            )
        return self._url

    @property
    def is_here(self) -> bool:
        """Is the cluster one of this machine, whose files are the master's?"""
        return self._local is not None

    @property
    def is_ours(self) -> bool:
        """Did this object start the cluster, which then ends with it?"""
        return self._local is not None and self._local.is_ours

    @property
    def has_failed(self) -> bool:
        """Has a part of a cluster of ours ended for good? Nothing goes on in it then, until it is closed and another one is made."""
        try:
            if self._local is not None:
                self._local.check()
        except ProtheonError:
            return True
        return False

    def dashboard_link(self) -> str:
        """The page that shows the cluster at work: ours where its scheduler has it, else Dask's own."""
        return dashboard_page(self.master.info().dashboard_link)

    def dashboard_way(self, page: str) -> str:
        """The command by which this page is reached from here, where it is the loopback of another host's; else empty."""
        host = self.master.address.rpartition(":")[0].strip("[]")
        try:
            parts = urlsplit(page)
            if not (parts.hostname and parts.port and is_loopback(parts.hostname)) or is_here(host):
                return ""
        except ValueError:  # it is no address
            return ""
        return f"ssh -N -L {parts.port}:{LOOPBACK}:{parts.port} {host}"

    def report(self, name: str, run_id: int = 0, limit: int | None = ROWS, *, everything: bool = False) -> list[Mapping[str, Any]]:
        """Rows of a named report, one more than limit where there are more: from the database where it is known here, else by the master.

        Raises: ConfigError: there is no such report (the message names them), or the limit is below 0; NotFound: no such run.
        """
        shown = limit_of(limit)
        most = None if shown is None else shown + 1
        if self._url is None:
            return list(self.master.report(name, run_id, most, everything=everything))
        with opened(self._url, application=APPLICATION) as conn:
            return list(reporting.rows(conn, name, run_id, most, everything=everything))

    def own(self, run_id: int) -> None:
        """Keep in mind that a run was asked for here: at the end it is interrupted, and not waited for."""
        self._own_runs.add(run_id)

    def tell(self, notices: Iterable[str]) -> None:
        """Say to the person what there is to know, in calls where it names commands."""
        for notice in notices:
            self._say(card.in_python(notice))

    # --- the end of a cluster -----------------------------------------------------------------------------------------------------

    def close(self, *, wait_others: bool) -> None:
        """End what was started here; a cluster that others run stays. Idempotent.

        wait_others: first wait for runs of other commands and kernels that use a cluster of ours, and name them.
        """
        if self.is_closed or os.getpid() != self._owner_pid:  # a fork of this process has no cluster
            return
        self.is_closed = True
        interrupted: list[str] = []
        with ExitStack() as stack:
            stack.callback(lambda: self.tell(interrupted))  # once it is so
            stack.callback(self._master.close)
            if self._local is not None:
                stack.push(self._local.__exit__)
                stack.callback(lambda: interrupted.extend(self._ends_with_us()))
                if wait_others:
                    self._local.wait_others(self._say, self._own_runs)

    def _ends_with_us(self) -> Iterator[str]:
        """What is to be said of the runs that were asked for here, are not done, and end with a cluster of ours."""
        if not self.is_ours or self.has_failed:
            return
        for run_id in sorted(self._own_runs):
            with suppress(ProtheonError):
                picture = self._master.get(run_id)
                if not picture.state.is_settled:
                    again = "loading the same" if replayed_run(picture.paths) is None else "the same replay"
                    done = words.percent(card.shown_fraction(picture))
                    yield f"run {run_id} is interrupted at {done}: {again} again goes on with it"

    def moved_on(self, generation: int) -> bool:
        """Has the command ended that ran the cluster of this generation? Another cluster has taken its place then."""
        with self._lock:
            if generation == self.generation and self._local is not None:
                self._local.wait_gone()  # its command may be ending it at this moment
                if self._local.is_gone():
                    self._take_over()
            return generation != self.generation

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
            self.generation += 1


def dashboard_page(dashboard_link: str) -> str:
    """Our page of the dashboard that this link is of, where the scheduler has it; else the link itself."""
    try:
        parts = urlsplit(dashboard_link)
        dashboard = f"{parts.scheme}://{parts.netloc}"
        with _DIRECTLY.open(dashboard + PANELS[0], timeout=PAGE_LOOK_S) as answer:
            has_page = PANELS[1] in answer.read()
    except (OSError, HTTPException, ValueError):  # no such list, no answer, no HTTP there, or no link at all
        return dashboard_link
    return dashboard + PAGE if has_page else dashboard_link
