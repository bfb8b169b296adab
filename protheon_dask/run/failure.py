"""What an exception that ended an attempt means: its cost, its message, and whether its run must pause."""

from __future__ import annotations

import traceback

from protheon_dask.errors import Acts, ConfigError, ProtheonError, TargetRefused
from protheon_dask.ledger.transaction import as_error, sqlstate_of
from protheon_dask.model import Cost, Failed
from protheon_dask.policy import blame
from protheon_dask.run.ingest import RejectLimitCrossed


def failure_of(exc: Exception) -> Failed:
    """Turn what ended an attempt into the value that the ledger keeps.

    An outage costs nothing. What the database makes impossible (a missing or changed table, a withdrawn right) is the operator's
    and pauses the run: every other chunk would fail in the same way. Everything else is a failure of pipeline or data.
    """
    if isinstance(exc, RejectLimitCrossed):
        return Failed(Cost.NOTHING, "RejectLimitCrossed", str(exc), pause=str(exc))
    sqlstate = sqlstate_of(exc)
    error = as_error(exc)
    if error is not None and error.acts is Acts.CLOCK:
        return Failed(Cost.NOTHING, type(error).__name__, str(error), sqlstate=sqlstate)
    if isinstance(error, TargetRefused) or (isinstance(error, ConfigError) and blame(sqlstate).operator):
        return Failed(Cost.NOTHING, type(error).__name__, str(error), sqlstate=sqlstate, pause=str(error))
    told = str(error) if isinstance(error, ProtheonError) else f"{exc}" or type(exc).__name__
    return Failed(Cost.FAILURE, type(exc).__name__, told, "".join(traceback.format_exception(exc)), sqlstate)
