"""What Dask pickles: one function and one small frozen value. Light to import: the scheduler imports it as well."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from protheon_dask.errors import ProtheonError
from protheon_dask.model import Dispatch

CORRUPT = "corrupt"
"""run_attempt's word for: the chunk's stored bytes are wrong at the broker; it is to be cut again."""

SUCCEEDED = "succeeded"
"""run_attempt's word for: the chunk is loaded."""

OUTAGE = "outage: "
"""Begin of run_attempt's answer where PostgreSQL could not serve it for now: no connection, a full disk; what it said follows."""

NOT_CLAIMED = "not claimed"
"""run_attempt's word for: the task was not there to be claimed, as where another copy of the dispatch came first."""

REFUSED = "refused: "
"""Begin of run_attempt's answer where the ledger refused the claim for good; the reason follows."""

RAISED = "raised: "
"""Begin of the word for a run_attempt that raised: the process itself is at fault."""

LEASE_LOST = "lease lost"
"""run_attempt's word for: the attempt was somebody else's by the time that it was to end."""

RELEASED = "released"
"""run_attempt's word for: the task was given back at no cost."""

FAILED = "failed"
"""run_attempt's word for: the pipeline, or the data, failed outside a line."""

MISFIT = "misfit"
"""run_attempt's word for: this host lacks what the pipeline needs, a module, a version, a key; others may have it."""

CANCELLED = "cancelled: "
"""Begin of the coordinator's word for a key that Dask forgot; why follows. Its thread may run on."""


STARTUP_KEY = "protheon"
"""What a worker tells the scheduler of itself when it registers (preload_worker): its host and process_uuid."""

HOST_METRIC = "protheon-host"
"""The host's name, among the metrics of a worker of somebody else's: that has registered before it hears of us (guest_plugin)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt ended, in a word, and on which host: a hint, the ledger knows."""

    word: str
    host: str


def run_attempt(dispatch: Dispatch) -> Answer:
    """Run one attempt in this worker process. Raises what is a defect; a process that cannot work at all says so with its host."""
    from protheon_dask.run.worker import current_process

    host = ""
    try:
        process = current_process()
        host = process.worker.host
        return Answer(process.run(dispatch), host)
    except ProtheonError as exc:
        return Answer(f"{RAISED}{type(exc).__name__}: {exc}", host or _own_name())


def _own_name() -> str:
    from protheon_dask.run.settings import read_settings
    from protheon_dask.run.trust.identity import own_name

    try:
        return own_name(read_settings({}).settings)
    except ProtheonError:  # of the settings: that may be why it cannot work
        return socket.gethostname()
