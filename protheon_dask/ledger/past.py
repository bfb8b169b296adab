"""What the ledger knows of sources and runs before anything is asked for: for ``protheon plan``. Reads alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from protheon_dask.ledger.rows import rows
from protheon_dask.model import STAGES, Identity, RunState


@dataclass(frozen=True, slots=True)
class KnownLoad:
    """A load of a source. lines and raw_bytes are of its chunks that are loaded, n_succeeded in number, of n_chunks (None: not all cut)."""

    identity: Identity
    load_id: int
    run_id: int  # its owner
    run_state: RunState
    is_finished: bool
    n_chunks: int | None
    n_succeeded: int
    chunk_lines: int  # fixed by the first split
    lines: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class PastRate:
    """How fast a run went. Units: seconds from its first chunk's start to its last one's end; stage_seconds over all workers."""

    run_id: int
    n_workers: int
    lines: int
    raw_bytes: int
    seconds: float
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class HostRate:
    """What a host's workers did in a run. Units: busy_s over all stages and workers."""

    host: str
    n_workers: int
    raw_bytes: int
    busy_s: float


def known_loads(
    conn: psycopg.Connection, identities: Sequence[Identity], name: str, version: str, options: str
) -> dict[Identity, KnownLoad]:
    """The loads that there are of these sources through this pipeline."""
    params = {
        "sizes": [identity.size_bytes for identity in identities],
        "digests": [identity.digest for identity in identities],
        "pipeline_name": name,
        "pipeline_version": version,
        "options": options,
    }
    found = {}
    for row in rows(conn, "known_loads", params):
        identity = Identity(row.pop("size_bytes"), row.pop("digest"))
        found[identity] = KnownLoad(identity, **{**row, "run_state": RunState(row["run_state"])})
    return found


def past_rates(conn: psycopg.Connection, name: str, version: str, newest: int) -> list[PastRate]:
    """How fast the newest runs of a pipeline went, the newest first; those that did nothing are left out."""
    found = rows(conn, "past_rates", {"pipeline_name": name, "pipeline_version": version, "newest": newest})
    return [
        PastRate(
            row["run_id"],
            row["n_workers"],
            row["lines"],
            row["raw_bytes"],
            row["seconds"],
            {stage: row[f"{stage}_s"] for stage in STAGES},
        )
        for row in found
    ]


def host_rates(conn: psycopg.Connection, run_id: int) -> list[HostRate]:
    """How fast each host's workers were in one run, by name."""
    return [HostRate(**row) for row in rows(conn, "host_rates", {"run_id": run_id})]
