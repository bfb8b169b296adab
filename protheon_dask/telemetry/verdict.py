"""What verify found, in words: a headline that claims no more than was looked at, and each check with what differs of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from protheon_dask import words

OK, DIFFERS, NOTE = "ok", "differs", "note"
DECLARE_PROVENANCE: Final = "to have rows looked at: declare their tables with provenance=True (8 bytes a row) before they are loaded"


class Looked(Protocol):
    """What was found out about one table: run.verify.TableCheck."""

    @property
    def table(self) -> str: ...
    @property
    def checked(self) -> bool: ...
    @property
    def findings(self) -> Sequence[str]: ...
    @property
    def why_not(self) -> str | None: ...
    @property
    def lacks_provenance(self) -> bool: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_chunks(self) -> int: ...
    @property
    def n_summed(self) -> int: ...


class Verified(Protocol):
    """What verify proved, and what it found: run.verify.Verification."""

    @property
    def run_id(self) -> int: ...
    @property
    def findings(self) -> Sequence[str]: ...
    @property
    def checked(self) -> Sequence[str]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def tables(self) -> Sequence[Looked]: ...
    @property
    def differs(self) -> Mapping[str, Sequence[str]]: ...


@dataclass(frozen=True, slots=True)
class Line:
    """One check, table or note. word: OK, DIFFERS or NOTE; findings stand below it."""

    word: str
    text: str
    findings: tuple[str, ...] = ()


def verdict(found: Verified) -> str:
    """``verified`` or ``differs``."""
    return "differs" if found.findings else "verified"


def reach(found: Verified) -> str:
    """What the verdict leaves out: ``by the ledger; 2 tables were not looked at``, or nothing."""
    unseen = _unseen(found)
    if not unseen:
        return ""
    of = words.count(len(unseen)) if len(unseen) == len(found.tables) else f"{len(unseen):,} of {len(found.tables):,}"
    were = "table was" if len(found.tables) == 1 else "tables was" if len(unseen) == 1 else "tables were"
    return f"{'' if found.findings else ' by the ledger'}; {of} {were} not looked at"


def lines(found: Verified) -> list[Line]:
    """Each check, table and note; a finding is told once."""
    told = {finding for table in found.tables for finding in table.findings}
    drawn = []
    for check in found.checked:
        findings = found.differs.get(check, ())
        below = tuple(finding for finding in findings if finding not in told)
        told.update(below)
        drawn.append(Line(DIFFERS if findings else OK, check, below))
    for table in found.tables:
        if table.checked:
            drawn.append(Line(DIFFERS if table.findings else OK, read_text(table), tuple(table.findings)))
        else:
            drawn += [Line(DIFFERS, finding) for finding in table.findings]
    drawn += [Line(NOTE, note) for note in found.notes]
    return drawn + [Line(DIFFERS, finding) for finding in found.findings if finding not in told]


def what_to_do(found: Verified) -> str | None:
    """What would have been looked at, had it been declared so."""
    return DECLARE_PROVENANCE if any(table.lacks_provenance for table in _unseen(found)) else None


def read_text(table: Looked) -> str:
    """``table public.t: 50,000 rows of 3 chunks counted, values of 3 compared``."""
    rows, chunks = words.counted(table.n_rows, "row"), words.counted(table.n_chunks, "chunk")
    return f"table {table.table}: {rows} of {chunks} counted, values of {words.count(table.n_summed)} compared"


def _unseen(found: Verified) -> list[Looked]:
    return [table for table in found.tables if table.why_not is not None and not table.findings]
