"""What a run refused, for people: how much of it is left, and all of it as lines of JSON or as it stood in its source."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from protheon_dask.ledger import dead_letters, replays, reports, runs
from protheon_dask.ledger.connect import Connection, opened
from protheon_dask.ledger.migrate import check_current
from protheon_dask.model import MAX_REFUSALS, Death, Refusal
from protheon_dask.pipelines.verdict import no_json_way_on
from protheon_dask.telemetry.ended import replayed_run
from protheon_dask.telemetry.statistics import RunStatistics
from protheon_dask.workspace.cut import LF

APPLICATION = "protheon-rejects"


@dataclass(frozen=True, slots=True)
class StillRefused:
    """What of a run is refused and was not replayed. paths: of the sources; n_lines: with those that wait in a replay.

    n_standing_lines: of n_lines, those whose loads were not undone or loaded once more: no other can be replayed.
    """

    run_id: int
    paths: tuple[str, ...]
    n_lines: int
    n_parts: int
    n_standing_lines: int


@dataclass(slots=True)
class Exported:
    """What an export has given out so far, and what of it was left out or is not whole."""

    n: int = 0
    n_truncated: int = 0
    n_parts: int = 0


def still_refused(url: str, run_id: int | None = None) -> StillRefused:
    """How much is left to replay of a run; None is the latest. Raises NotFound, MigrationPending, LedgerUnavailable."""
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        number = runs.existing_run(conn, run_id)
        found = replays.originals(conn, number)
        n_lines, n_parts = replays.count_open(conn, [original.load_id for original in found])
        n_standing_lines, _ = replays.count_open(conn, [original.load_id for original in found if not original.is_retired])
        return StillRefused(number, tuple(original.path for original in found), n_lines, n_parts, n_standing_lines)


def refusals_of(conn: Connection, run_id: int, limit: int = MAX_REFUSALS) -> tuple[Refusal, ...]:
    """Why lines of a run's files are still refused, the commonest reasons first."""
    found = reports.refusals(conn, run_id, limit)
    return tuple(
        Refusal(
            n=row["n"],
            n_looked=row["n_looked"],
            path=row["path"],
            line_no=row["line"],
            part=row["part"],
            reason=row["reason"],
            sqlstate=row["sqlstate"],
            table=row["table_name"],
            way_on=no_json_way_on(row["raw"], row["reason"]) if row["raw_bytes"] <= len(row["raw"]) and row["part"] is None else None,
        )
        for row in found
    )


def with_refusals(conn: Connection, statistics: RunStatistics) -> RunStatistics:
    """The picture of a run that has ended or paused, with its reasons; while it runs they are not asked for again and again."""
    return with_reasons(conn, statistics) if statistics.state.is_settled else statistics


def with_reasons(conn: Connection, statistics: RunStatistics) -> RunStatistics:
    """The picture of a run with why chunks of it are dead, and why lines of it are still refused."""
    if statistics.dead_letters:
        counted = dead_letters.counts(conn, statistics.run)
        deaths = (Death(row["n"], row["reason"], row["error_class"], row["message"]) for row in counted if row["status"] == "open")
        statistics = replace(statistics, deaths=tuple(deaths))
    if not (statistics.rejected or statistics.rejected_parts):
        return statistics
    return _with_replays(conn, replace(statistics, refusals=refusals_of(conn, statistics.run)))


def _with_replays(conn: Connection, statistics: RunStatistics) -> RunStatistics:
    """With what became of its refused lines since. They are counted only where there was a replay: there may be millions."""
    load_ids = [original.load_id for original in replays.originals(conn, statistics.run)]
    if not replays.are_replayed(conn, load_ids):
        return statistics
    is_replay = replayed_run(statistics.paths) is not None  # what it left is taken by later ones alone
    found = [row["run_id"] for row in reports.replayed(conn, statistics.run)]
    by = tuple(run_id for run_id in found if run_id > statistics.run or not is_replay)
    n_open, _ = replays.count_open(conn, load_ids)  # of a replay: of all that it is a part of, so that less is told than there may be
    n = statistics.rejected - n_open
    return replace(statistics, replayed=n, replayed_by=by) if by and n > 0 else statistics


def export(url: str, run_id: int | None, counted: Exported, *, everything: bool, raw: bool) -> Iterator[bytes]:
    """Refused lines of a run and of its replays, each ended by LF, in the order of files and lines.

    Shapes:    an object a reject (see shown()); raw: the line itself as it stood in its source, LF or CR LF at its end. Lines of
               which the ledger keeps only the beginning, and parts of lines, whose lines are loaded, are then left out.
    everything: those that were replayed too, after the others; else only what is still refused.
    Guarantee: memory is a few hundred lines, by a cursor of the server's. counted is right when the iterator has ended.
    """
    with opened(url, application=APPLICATION) as conn:
        check_current(conn)
        number = run_id or runs.latest_run(conn)
        with conn.transaction():
            for row in reports.stream_rejects(conn, number, replayed=everything):
                line = row["raw"].removesuffix(LF)  # one that was beyond max_line_bytes was kept with its own
                is_truncated = row["raw_bytes"] > len(row["raw"])
                counted.n_truncated += is_truncated
                counted.n_parts += row["part"] is not None
                if raw and (is_truncated or row["part"] is not None):
                    continue
                counted.n += 1
                yield (line if raw else msgspec.json.encode(shown(row, line, is_truncated=is_truncated))) + LF


def shown(row: Mapping[str, Any], line: bytes, *, is_truncated: bool) -> dict[str, Any]:
    """One reject for a file. ``raw`` is the line's text, ``raw_base64`` stands for it where that is not UTF-8.

    ``truncated`` marks the beginning of a line beyond 64 KiB; ``raw_bytes`` is the length of the whole line.
    """
    try:
        text = {"raw": line.decode()}
    except UnicodeDecodeError as error:
        text = {"raw_base64": base64.b64encode(line).decode()}
        if is_truncated and error.end == len(line) and error.reason == "unexpected end of data":
            text = {"raw": line[: error.start].decode()}  # the cut went through a character
    return {
        "path": row["path"],
        "line": row["line"],
        "byte_offset": row["byte_offset"],
        "part": row["part"],
        "reason": row["reason"],
        "sqlstate": row["sqlstate"],
        "table": row["table_name"],
        **text,
        "raw_bytes": row["raw_bytes"],
        **({"truncated": True} if is_truncated else {}),
        "replayed_by": row["replayed_by"],
    }
