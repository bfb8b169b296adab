"""Compare the five tables and the rejects with the oracle's answer, row by row. Imports nothing of the product."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from tests.chaos.findings import Findings, Kind
from tests.chaos.oracle import Answer, Contestant, Refusal, Row, Why

EVENTS: LiteralString = "SELECT id, child, word, pad FROM campaign.events"
KEYED: LiteralString = "SELECT key, id, word FROM campaign.keyed"
FIRSTS: LiteralString = "SELECT key, id, word FROM campaign.firsts"
LATEST: LiteralString = "SELECT key, at, id, word FROM campaign.latest"
TOTALS: LiteralString = "SELECT key, n, lines FROM campaign.totals"
HAS_NOTES: LiteralString = "SELECT to_regclass('campaign.notes') IS NOT NULL"
NOTES: LiteralString = "SELECT no, text FROM campaign.notes"
REJECTS: LiteralString = """
SELECT load.path, reject.line, reject.part, reject.reason, reject.sqlstate
  FROM protheon.reject JOIN protheon.load ON load.id = reject.load_id
 WHERE load.retired_at IS NULL
"""


def read(conn: psycopg.Connection[Any], query: LiteralString) -> Counter[Row]:
    """The rows of a query as a multiset."""
    return Counter(conn.execute(query).fetchall())


def judge_rows(conn: psycopg.Connection[Any], answer: Answer, found: Findings) -> None:
    """Compare all five tables, the notes and the rejects. Contested lines of the answer are settled first, as the database has them."""
    events, keyed = read(conn, EVENTS), read(conn, KEYED)
    settle_contested(answer, events, keyed, found)
    compare(found, "events", answer.events, events, n_identity=2)
    compare(found, "keyed", answer.keyed, keyed, n_identity=1)
    _judge_keys(found, "firsts", answer.firsts, read(conn, FIRSTS))
    _judge_keys(found, "latest", answer.latest, read(conn, LATEST))
    _judge_totals(found, answer, read(conn, TOTALS))
    if conn.execute(HAS_NOTES).fetchone() == (True,) or answer.notes:
        compare(found, "notes", answer.notes, read(conn, NOTES), n_identity=1)
    refusals: Counter[Refusal] = Counter()
    for (path, line, part, reason, sqlstate), n in read(conn, REJECTS).items():
        refusals[refusal_of(path, line, part, reason, sqlstate)] += n
    _judge_refusals(found, answer, refusals)


def settle_contested(answer: Answer, events: Counter[Row], keyed: Counter[Row], found: Findings) -> None:
    """Find out who won each contested key, and move winners and losers to where all other lines are.

    A key must have one winner, whose row of events and of keyed are both there; comparing them finds where they are not.
    """
    for key, lines in answer.contested.items():
        here = [line for line in lines if keyed[line.row]] or [line for line in lines if events[line.event]]
        if not here:
            names = ", ".join(f"{line.source}:{line.line}" for line in lines)
            found.add(Kind.LOST, "keyed", f"none of the lines that want {key!r} has it: {names}")
        _settle(answer, (here or lines)[0], lines)
    answer.contested.clear()


def _settle(answer: Answer, winner: Contestant, lines: list[Contestant]) -> None:
    for line in lines:
        chunk = answer.chunks[line.source, line.first_line]
        if line is winner:
            answer.events[line.event] += 1
            answer.keyed[line.row] += 1
            chunk.loaded += 1
            chunk.offered += Counter(events=1, keyed=1)
        else:
            answer.refusals[Refusal(line.source, line.line, Why.TAKEN)] += 1
            chunk.rejected += 1


def compare(found: Findings, table: str, expected: Counter[Row], there: Counter[Row], *, n_identity: int) -> None:
    """Compare multisets. The first n_identity columns tell a row that was changed from one that was lost and another that is foreign."""
    missing, extra = expected - there, there - expected
    lost_by_identity: dict[Row, list[Row]] = {}
    for row in missing.elements():
        lost_by_identity.setdefault(row[:n_identity], []).append(row)
    for row, n in extra.items():
        if row in expected:
            found.add(Kind.DOUBLED, table, f"{_short(row)} is there {there[row]} times and must be {expected[row]} times", n)
            continue
        for _ in range(n):
            if meant := lost_by_identity.get(row[:n_identity]):
                found.add(Kind.WRONG, table, f"{_short(row)} is there and must be {_short(meant.pop())}")
            else:
                found.add(Kind.WRONG, table, f"{_short(row)} is there and is no row of the material")
    for rows in lost_by_identity.values():
        for row in rows:
            found.add(Kind.LOST, table, f"{_short(row)} is there {there[row]} times and must be {expected[row]} times")


def _judge_keys(found: Findings, table: str, candidates: dict[str, set[Row]], there: Counter[Row]) -> None:
    """Each key once, with a row of one of its candidates.

    A key that is missing is a loss, a row that is none of its candidates' is wrong: another line's, one made of two, or an older one.
    That a chunk was loaded twice is not to be seen here: the second time changes nothing. events and totals show that.
    """
    keys = Counter(row[0] for row in there.elements())
    for key in candidates.keys() - keys.keys():
        found.add(Kind.LOST, table, f"no row has the key {key!r}")
    for key, n in keys.items():
        if n > 1:
            found.add(Kind.DOUBLED, table, f"{n} rows have the key {key!r}", n - 1)
    for row in there:
        if row not in candidates.get(row[0], ()):
            meant = " or ".join(_short(candidate) for candidate in sorted(candidates.get(row[0], ()))[:3]) or "no row"
            found.add(Kind.WRONG, table, f"{_short(row)} is there and must be {meant}")


def _judge_totals(found: Findings, answer: Answer, there: Counter[Row]) -> None:
    """Each sum exactly: too small is a loss, too large a double; n and the count of lines move together."""
    sums = {key: (n, lines) for key, n, lines in there}
    for key in answer.totals.keys() - sums.keys():
        found.add(Kind.LOST, "totals", f"no row has the key {key!r}", answer.totals[key][1])
    for key, (n, lines) in sums.items():
        if key not in answer.totals:
            found.add(Kind.WRONG, "totals", f"{key!r} is there and is no key of the material")
            continue
        meant_n, meant_lines = answer.totals[key]
        text = f"{key!r} is ({n}, {lines}) and must be ({meant_n}, {meant_lines})"
        if lines == meant_lines and n != meant_n:
            found.add(Kind.WRONG, "totals", text)
        elif lines > meant_lines:
            found.add(Kind.DOUBLED, "totals", text, lines - meant_lines)
        elif lines < meant_lines:
            found.add(Kind.LOST, "totals", text, meant_lines - lines)


def refusal_of(path: str, line: int, part: str | None, reason: str, sqlstate: str | None) -> Refusal:
    """A reject as the oracle says it: the product's and the server's words become their class."""
    source = Path(path).name
    if part is not None:
        return Refusal(source, line, Why.PART, part, reason)
    if sqlstate == "23505":
        return Refusal(source, line, Why.TAKEN)
    if sqlstate is not None or reason.startswith("column "):
        return Refusal(source, line, Why.SERVER)
    if reason.startswith("JSONDecodeError"):
        return Refusal(source, line, Why.MALFORMED)
    if reason.startswith("vanished"):
        return Refusal(source, line, Why.VANISHED)
    return Refusal(source, line, Why.REFUSED, said=reason)


def _judge_refusals(found: Findings, answer: Answer, there: Counter[Refusal]) -> None:
    """Each refused line once, for its reason. A loaded line that is refused because its key is there was loaded twice."""
    missing, extra = answer.refusals - there, there - answer.refusals
    reasons = {(refusal.source, refusal.line, refusal.part): refusal for refusal in missing}
    for refusal, n in extra.items():
        name = f"{refusal.source}:{refusal.line}"
        if refusal in answer.refusals:
            found.add(Kind.DOUBLED, "rejects", f"{name} is refused {there[refusal]} times ({refusal.why})", n)
        elif refusal.why is Why.TAKEN:
            found.add(Kind.DOUBLED, "rejects", f"{name} is refused because its key is there: it was loaded before", n)
        elif (meant := reasons.pop((refusal.source, refusal.line, refusal.part), None)) is not None:
            missing[meant] = 0
            found.add(
                Kind.WRONG, "rejects", f"{name} is refused as {refusal.why} {refusal.said!r} and must be as {meant.why} {meant.said!r}", n
            )
        else:
            found.add(Kind.WRONG, "rejects", f"{name} is refused as {refusal.why} {refusal.said!r} and must be loaded", n)
    for refusal in missing.elements():
        part = f", its part {refusal.part}" if refusal.part else ""
        found.add(Kind.LOST, "rejects", f"{refusal.source}:{refusal.line}{part} must be refused as {refusal.why} and is not")


def _short(row: Row) -> str:
    """A row for a reader; what pads it is cut."""
    return "(" + ", ".join(repr(value)[:24] for value in row) + ")"
