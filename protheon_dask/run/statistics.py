"""From the ledger's answer to the one frozen picture of a run."""

from __future__ import annotations

from protheon_dask.errors import NotFound
from protheon_dask.ledger import reports
from protheon_dask.ledger.connect import Connection
from protheon_dask.ledger.hosts import aside_words, hosts_aside
from protheon_dask.ledger.runs import INTERRUPTED
from protheon_dask.model import STAGES, RunState, TableCount
from protheon_dask.telemetry.statistics import RunStatistics


def statistics_of(conn: Connection, run_id: int) -> RunStatistics:
    """The run in numbers, from the ledger alone. Raises NotFound."""
    row = reports.statistics(conn, run_id)
    if row is None:
        raise NotFound(f"there is no run {run_id}: `protheon runs` lists them")
    stages = {stage: float(row.pop(f"{stage}_s")) for stage in STAGES}
    tables = tuple(TableCount(**count) for count in reports.row_counts(conn, run_id))
    row.update(state=RunState(row["state"]), paths=tuple(row["paths"]), notices=tuple(row["notices"]))
    if row["state"] is RunState.RUNNING and row["reason"] is None:
        row["reason"] = aside_words(hosts_aside(conn))
    row.update(gone_on_by=tuple(row["gone_on_by"]), behind=tuple(row["behind"]))
    return RunStatistics(**row, rows=tables, stage_seconds=stages)


def was_interrupted(statistics: RunStatistics) -> bool:
    """Did the run end because the command that ran its cluster has ended?"""
    return statistics.state is RunState.CANCELLED and statistics.reason == INTERRUPTED
