"""What Dask pickles: one function and one small frozen value. Light to import: the scheduler imports it as well."""

from __future__ import annotations

from protheon_dask.model import Dispatch

CORRUPT = "corrupt"
"""run_attempt's word for: the chunk's stored bytes are wrong at the broker; it is to be cut again."""

SUCCEEDED = "succeeded"
"""run_attempt's word for: the chunk is loaded."""

OUTAGE = "outage: "
"""Begin of run_attempt's answer where PostgreSQL could not serve it for now: no connection, a full disk; what it said follows."""

REFUSED = "refused: "
"""Begin of run_attempt's answer where the ledger refused the claim for good; the reason follows."""

RAISED = "raised: "
"""Begin of the coordinator's word for a run_attempt that raised: the process itself is at fault."""


def run_attempt(dispatch: Dispatch) -> str:
    """Run one attempt in this worker process and return a word on how it ended: a hint, the ledger knows."""
    from protheon_dask.run.worker import current_process

    return current_process().run(dispatch)
