"""What an exception that ended an attempt means: its cost, its message, and whether its run must pause."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Mapping

from protheon_dask.errors import Acts, ConfigError, ProtheonError, TargetRefused
from protheon_dask.ledger import verbs
from protheon_dask.ledger.connect import Connection
from protheon_dask.ledger.transaction import as_error, is_of_server, sqlstate_of
from protheon_dask.model import Cost, Failed, Lease, Outcome
from protheon_dask.pipelines.find import is_own_code
from protheon_dask.policy import GiveUp, Retry, RetryPolicy
from protheon_dask.postgres import Place
from protheon_dask.run.function import FunctionFailed
from protheon_dask.run.ingest import RejectLimitCrossed

logger = logging.getLogger(__name__)


def failure_of(exc: Exception, place: Place | None = None) -> Failed:
    """Turn what ended an attempt into the value that the ledger keeps. place: the database it worked on, for the message.

    An outage costs nothing. What the database makes impossible (a missing or changed table, a withdrawn right) is the operator's
    and pauses the run: every other chunk would fail in the same way. Everything else is a failure of pipeline or data.
    """
    if isinstance(exc, RejectLimitCrossed):
        return Failed(Cost.NOTHING, "RejectLimitCrossed", str(exc), pause=str(exc))
    if isinstance(exc, FunctionFailed) and (cause := exc.__cause__) is not None:
        story = _story_of(cause)
        return Failed(Cost.FAILURE, type(cause).__name__, str(story) or type(cause).__name__, "".join(story.format()), sqlstate_of(cause))
    sqlstate = sqlstate_of(exc)
    error = as_error(exc, place)
    if error is not None and error.acts is Acts.CLOCK:
        return Failed(Cost.NOTHING, type(error).__name__, str(error), sqlstate=sqlstate)
    if isinstance(error, TargetRefused) or (isinstance(error, ConfigError) and is_of_server(exc)):
        return Failed(Cost.NOTHING, type(error).__name__, str(error), sqlstate=sqlstate, pause=str(error))
    told = str(error) if isinstance(error, ProtheonError) else f"{exc}" or type(exc).__name__
    return Failed(Cost.FAILURE, type(exc).__name__, told, "".join(_story_of(exc).format()), sqlstate)


def _story_of(exc: BaseException) -> traceback.TracebackException:
    """The exception as it is told, also one whose text cannot be had: from the author's first frame on, where there is one."""
    story = traceback.TracebackException.from_exception(exc)
    left: list[traceback.TracebackException | None] = [story]
    while left:
        if (one := left.pop()) is None:
            continue
        first = next((at for at, frame in enumerate(one.stack) if is_own_code(frame.filename)), 0)
        one.stack = traceback.StackSummary.from_list(one.stack[first:])
        left += [one.__cause__, one.__context__, *(one.exceptions or ())]
    return story


def is_misfit(exc: Exception) -> bool:
    """Does this host lack what the pipeline needs: a module, the same version, the cluster's key? On another host it may be there."""
    return isinstance(exc, ImportError) or (isinstance(exc, ConfigError) and not isinstance(exc, TargetRefused) and not is_of_server(exc))


def end_without_effect(
    conn: Connection,
    lease: Lease,
    failed: Failed,
    outcome: Outcome,
    spent: Mapping[Cost, int],
    policy: RetryPolicy,
    *,
    least_delay_s: float = 0.0,
) -> str | None:
    """Give the task back, or up, as the policy decides, in the caller's transaction. LeaseLost if the attempt is no longer the task's.

    spent: how often the task has ended at each cost before this time. least_delay_s: a retry comes no sooner.
    Returns why the task is dead now, or None: the caller says so once it has committed (tell_dead).
    """
    match policy.decide(failed.cost, spent.get(failed.cost, 0) + 1, random.random()):
        case Retry(delay_s=delay_s):
            verbs.release(conn, lease, failed, outcome, max(delay_s, least_delay_s))
            return None
        case GiveUp(reason=reason):
            verbs.dead_letter(conn, lease, failed, outcome, reason)
            return reason


def tell_dead(lease: Lease, reason: str | None) -> None:
    """After the COMMIT, the event of a task that is dead; none where it is not."""
    if reason is not None:
        logger.warning("task.dead_letter", extra={"task_id": lease.task_id, "attempt_no": lease.attempt_no, "reason": reason})
