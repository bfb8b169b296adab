"""Named reports: rows of the ledger for who has its database, and as pages of JSON for who has only the master's address."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from protheon_dask.broker.wire import Report
from protheon_dask.errors import ConfigError
from protheon_dask.ledger import reports, runs
from protheon_dask.ledger.connect import Connection
from protheon_dask.ledger.migrate import check_current
from protheon_dask.run.frames import MOST_ROWS, ROWS, to_json
from protheon_dask.run.story import story_of
from protheon_dask.run.verify import verify_on

PAGE_BYTES: Final = 1 << 20
"""Of JSON, after which a page is sent; a row beyond it, with 64 KiB of a line at most, comes on top."""
STORY: Final = "story"
VERIFICATION: Final = "verification"
"""The reports that are one value each: a few MB at most, which fits into one message."""


def rows(conn: Connection, name: str, run_id: int, limit: int | None, *, everything: bool = False) -> Iterator[Mapping[str, Any]]:
    """Rows of a named report, at most limit of them (None: all); run_id 0 is the latest run. A story is one row (telemetry.story),
    and so is a verification (run.verify).

    everything: of rejects and dead letters those that are closed, too; of a verification: deep.
    Raises:     ConfigError: there is no such report; NotFound, MigrationPending.
    Guarantee:  memory is a few hundred rows: the server keeps the rest until it is asked for.
    """
    if name not in (names := (*reports.NAMED, STORY, VERIFICATION)):
        raise ConfigError(f"there is no report {name!r}: there are {', '.join(sorted(names))}")
    check_current(conn)
    number = run_id if name == "runs" else runs.existing_run(conn, run_id or None)
    if name == STORY:
        yield story_of(conn, number).to_json()
        return
    if name == VERIFICATION:
        yield asdict(verify_on(conn, number, deep=everything))
        return
    with conn.transaction():
        yield from reports.stream(conn, name, number, limit, everything=everything)


def pages_of(conn: Connection, wanted: Report) -> Generator[str]:
    """What a client asked for, as pages. Raises as rows(); ConfigError: a limit below 0."""
    if wanted.limit < 0:
        raise ConfigError(f"limit={wanted.limit}: give a number of rows, 0 for {ROWS:,}, or {MOST_ROWS} for all")
    limit = ROWS if wanted.limit == 0 else None if wanted.limit == MOST_ROWS else wanted.limit
    yield from pages(rows(conn, wanted.name, wanted.run_id, limit, everything=wanted.everything))


def pages(found: Iterable[Mapping[str, Any]]) -> Generator[str]:
    """JSON arrays of rows, each of about PAGE_BYTES at most."""
    page: list[str] = []
    size_bytes = 0
    for row in found:
        page.append(json.dumps(to_json(row)))
        size_bytes += len(page[-1])
        if size_bytes >= PAGE_BYTES:
            yield f"[{','.join(page)}]"
            page, size_bytes = [], 0
    if page:
        yield f"[{','.join(page)}]"
