"""What Dask's scheduler would keep for ever of tasks that are done: spans (distributed issue 7977), pruned now and then.

Tasks without a span of their own belong to one named ``default``. Each time the scheduler has had nothing to do the next task makes another
one; and a span keeps a record of every graph that came, which are as many as chunks.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

PERIOD_S: Final = 60.0
KEPT_S: Final = 3600.0
"""How long a span that is done is to be seen."""
KEPT_RECORDS: Final = 100
DEFAULT: Final = ("default",)


class Pruning:
    """The scheduler's spans, looked through once in a PERIOD_S."""

    def __init__(self) -> None:
        self._due_at = -math.inf

    def look(self, scheduler: Any) -> None:
        """Prune, if it is time to. Cheap otherwise: called for each graph."""
        if time.monotonic() >= self._due_at:
            self._due_at = time.monotonic() + PERIOD_S
            prune(scheduler, time.time() - KEPT_S)


def bear_forgotten(scheduler: Any) -> None:
    """Let heartbeats tell of spans that were forgotten; else a worker that does is closed.

    A task that was cancelled while it ran has ended for its span, and its thread goes on and is told of later.
    """
    extension = scheduler.extensions["spans"]
    heartbeat = extension.heartbeat
    extension.heartbeat = lambda worker, data: heartbeat(worker, {key: spent for key, spent in data.items() if key[1] in extension.spans})


def prune(scheduler: Any, ended_before: float) -> None:
    """Forget default spans that ended before then (seconds since 1970), and of all others the oldest records of graphs.

    Spans that somebody annotated stay, and those to which the next task would be added: of its group there are some in memory.
    """
    extension = scheduler.extensions["spans"]
    in_use = {group.span_id for group in scheduler.task_groups.values()}
    defaults = extension.spans_search_by_name[DEFAULT]
    ended = {span.id for span in defaults if span.id not in in_use and span.done and span.stop < ended_before}
    for found in (extension.root_spans, defaults, extension.spans_search_by_tag[DEFAULT[0]]):
        found[:] = [span for span in found if span.id not in ended]
    for span_id in ended:
        del extension.spans[span_id]
    for span in extension.spans.values():
        if span.metadata is not None:
            del span.metadata["collections"][:-KEPT_RECORDS]
