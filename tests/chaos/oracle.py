"""What must be in the database after a campaign, worked out from the plain lines by rules of its own. Imports nothing of the product.

Where chunks in parallel leave a choice, the answer holds the candidates: who wrote a key of ``firsts`` first, which of several lines with
the greatest ``at`` stands in ``latest``, which of the lines that want a contested key of ``keyed`` has it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.chaos.material import MAX_WORD, Expected, Source, plain_of

BOM = b"\xef\xbb\xbf"
TABLES = ("events", "keyed", "firsts", "latest", "totals")
Row = tuple[Any, ...]


class Why(StrEnum):
    """Why a line, or a part of one, is refused."""

    MALFORMED = "malformed"  # its decoder
    REFUSED = "refused"  # the pipeline, with a reason
    VANISHED = "vanished"  # it gave nothing and no verdict
    SERVER = "server"  # the last of its tables does not take its value
    TAKEN = "taken"  # its key is another line's
    PART = "part"  # a part of it only; the line is loaded


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """One reject. said: the words that the pipeline gave; empty where they are the product's or the server's."""

    source: str
    line: int
    why: Why
    part: str = ""
    said: str = ""


@dataclass(slots=True)
class Chunk:
    """One chunk as it must be cut, and where its lines must go. A contested line counts among neither loaded nor rejected."""

    source: str
    first_line: int
    n_lines: int
    raw_bytes: int
    loaded: int = 0
    filtered: int = 0
    rejected: int = 0
    blank: int = 0
    parts: int = 0
    offered: Counter[str] = field(default_factory=Counter)  # rows of loaded lines, by table


@dataclass(frozen=True, slots=True)
class Contestant:
    """A line that wants a key of keyed which others want too; it has one row of events and one of keyed, and no other."""

    key: str
    source: str
    line: int
    first_line: int  # of its chunk
    event: Row
    row: Row


@dataclass(slots=True)
class Answer:
    """What must be there, contested lines aside.

    events, keyed:  multisets of rows (keyed's as one, for it has each row once).
    firsts:         by key, the rows of which any one may stand: (key, id, word).
    latest:         by key, the rows with the greatest at: (key, at, id, word).
    totals:         by key, (n, lines).
    notes:          rows of campaign.notes, as a multiset. results: by the request's name, what its task returned.
    contested:      by key of keyed, the lines of which exactly one is loaded; the others are refused as taken.
    chunks:         by (source's name, first line), those of dead chunks too; their rows are in nothing above.
    """

    events: Counter[Row] = field(default_factory=Counter)
    keyed: Counter[Row] = field(default_factory=Counter)
    firsts: dict[str, set[Row]] = field(default_factory=lambda: defaultdict(set))
    latest: dict[str, set[Row]] = field(default_factory=lambda: defaultdict(set))
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)
    refusals: Counter[Refusal] = field(default_factory=Counter)
    notes: Counter[Row] = field(default_factory=Counter)
    results: dict[str, Any] = field(default_factory=dict)
    contested: dict[str, list[Contestant]] = field(default_factory=lambda: defaultdict(list))
    chunks: dict[tuple[str, int], Chunk] = field(default_factory=dict)

    def n_rows(self) -> Mapping[str, int]:
        """How many rows each table must have, the winners of contested keys included."""
        n_won = len(self.contested)
        return dict(
            zip(
                TABLES,
                (self.events.total() + n_won, self.keyed.total() + n_won, len(self.firsts), len(self.latest), len(self.totals)),
                strict=True,
            )
        )


def answer(expected: Expected) -> Answer:
    """Judge every line of the material. Raises ValueError: a source is not the one that was written."""
    found = Answer()
    wanted: defaultdict[str, list[Contestant]] = defaultdict(list)
    for note in expected.notes:
        found.notes[note.no, "".join(reversed(note.text))] += 1
        found.results[note.request_id] = {"no": note.no, "letters": len(note.text)}
    for source in expected.sources:
        for chunk, lines in _chunks(source, expected.chunk_lines):
            found.chunks[source.name, chunk.first_line] = chunk
            if (source.name, chunk.first_line) not in expected.dead_chunks:
                for line_no, line in lines:
                    _judge(found, wanted, chunk, line_no, line)
    for key, lines_of_key in wanted.items():
        if len(lines_of_key) > 1:
            found.contested[key] = lines_of_key
            continue
        [alone] = lines_of_key  # nobody else wants it: a line like any other
        found.events[alone.event] += 1
        found.keyed[alone.row] += 1
        chunk = found.chunks[alone.source, alone.first_line]
        chunk.loaded += 1
        chunk.offered += Counter(events=1, keyed=1)
    return found


def _chunks(source: Source, chunk_lines: int) -> Iterator[tuple[Chunk, list[tuple[int, bytes]]]]:
    """Each chunk with its lines: a line ends at LF or at the end of the source."""
    ended = plain_of(source).split(b"\n")
    physical = [line + b"\n" for line in ended[:-1]] + ([ended[-1]] if ended[-1] else [])
    for start in range(0, len(physical), chunk_lines):
        lines = physical[start : start + chunk_lines]
        chunk = Chunk(source.name, start + 1, len(lines), sum(map(len, lines)))
        yield chunk, [(start + index + 1, line) for index, line in enumerate(lines)]


def _judge(found: Answer, wanted: dict[str, list[Contestant]], chunk: Chunk, line_no: int, physical: bytes) -> None:
    text = physical.removesuffix(b"\n").removesuffix(b"\r")
    if line_no == 1:
        text = text.removeprefix(BOM)
    if not text.strip(b" \t\r"):
        chunk.blank += 1
        return
    try:
        line = json.loads(text)
    except ValueError:
        _refuse(found, chunk, Refusal(chunk.source, line_no, Why.MALFORMED))
        return
    if "skip" in line:
        chunk.filtered += 1
        return
    if "nothing" in line:
        _refuse(found, chunk, Refusal(chunk.source, line_no, Why.VANISHED))
        return
    if "refuse" in line:
        _refuse(found, chunk, Refusal(chunk.source, line_no, Why.REFUSED, said=line["refuse"]))
        return
    if "key" in line and len(line["word"]) > MAX_WORD:
        _refuse(found, chunk, Refusal(chunk.source, line_no, Why.SERVER))
        return
    if line.get("key", "").startswith("contested-"):
        event, row = (line["id"], 0, line["word"], line["pad"]), (line["key"], line["id"], line["word"])
        wanted[line["key"]].append(Contestant(line["key"], chunk.source, line_no, chunk.first_line, event, row))
        return
    _load(found, chunk, line_no, line)


def _refuse(found: Answer, chunk: Chunk, refusal: Refusal) -> None:
    chunk.rejected += 1
    found.refusals[refusal] += 1


def _load(found: Answer, chunk: Chunk, line_no: int, line: Mapping[str, Any]) -> None:
    chunk.loaded += 1
    line_id, word, children = line["id"], line["word"], line.get("children", [])
    for row in [(line_id, 0, word, line.get("pad", "")), *((line_id, no, word, "") for no in range(1, len(children) + 1))]:
        found.events[row] += 1
        chunk.offered["events"] += 1
    added = [(line["total"], line["n"])] if line.get("total") is not None else []
    for key, n in [*added, *((child["total"], child["n"]) for child in children)]:
        n_before, lines_before = found.totals.get(key, (0, 0))
        found.totals[key] = (n_before + n, lines_before + 1)
        chunk.offered["totals"] += 1
    if line.get("first") is not None:
        found.firsts[line["first"]].add((line["first"], line_id, word))
        chunk.offered["firsts"] += 1
    if line.get("latest") is not None:
        rows = found.latest[line["latest"]]
        greatest = max((row[1] for row in rows), default=line["at"])
        if line["at"] > greatest:
            rows.clear()
        if line["at"] >= greatest:
            rows.add((line["latest"], line["at"], line_id, word))
        chunk.offered["latest"] += 1
    if "key" in line:
        found.keyed[line["key"], line_id, word] += 1
        chunk.offered["keyed"] += 1
    for part in line.get("parts", []):
        chunk.parts += 1
        found.refusals[Refusal(chunk.source, line_no, Why.PART, part, "this part is not wanted")] += 1
