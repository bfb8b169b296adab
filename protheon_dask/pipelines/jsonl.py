"""The built-in pipeline ``jsonl``: any valid JSON line into one table, as it stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from protheon_dask.errors import Reject
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.table import BatchRows, Column, Table, TableRows, Verdict
from protheon_dask.pipelines.verdict import BLANK, DECODE_ERRORS, ESCAPED_NUL, NO_NUL, decode_reason

NAME: Final = "jsonl"
COMPRESSION_SUFFIXES: Final = frozenset({".zst", ".zstd", ".gz", ".gzip", ".bz2", ".xz", ".lz4"})
IDENTIFIER_BYTES: Final = 63
"""PostgreSQL's limit of a name (NAMEDATALEN - 1)."""


def jsonl(table: str, *, given: bool = True) -> Pipeline:
    """Make the pipeline that loads each line's JSON into ``table``.

    Shapes:     (load_id, line_no, doc): a document is known by its place, so that equal lines are both kept.
    given:      the person named the table; one that was only chosen for them is no part of a load's identity.
    Raises:     ConfigError: the table's name is no name.
    """
    target = Table(
        name=table,
        columns=(
            Column("load_id", "bigint", not_null=True, comment="The load that brought the line (protheon.load)."),
            Column("line_no", "bigint", not_null=True, comment="The line in the decompressed source, from 1."),
            Column("doc", "jsonb", not_null=True, comment="The line."),
        ),
        primary_key=("load_id", "line_no"),
        on_conflict="ignore",
        comment="JSON lines as they stand.",
    )
    return Pipeline(NAME, "1", (target,), JsonlForm(), {"table": target.name} if given else {})


@dataclass(frozen=True, slots=True)
class JsonlForm:
    """Checks lines and keeps their bytes."""

    @property
    def function(self) -> Any:
        return refuse

    def open(self, tables: tuple[Table, ...], context: ChunkContext) -> JsonlTransformer:  # noqa: ARG002  # it has the one table
        return JsonlTransformer(context.load_id)


def refuse(line: bytes) -> None:
    """Raise Reject unless PostgreSQL takes the line as jsonb (but for numbers that its numeric cannot hold).

    Source:     measured: msgspec.Raw finds the end of a valid value at 1,800 MB/s, decoding it makes 440; Raw does not
                look at the encoding of strings, which decode() checks at 18,000 MB/s; the search for NUL makes 2,400.
    """
    try:
        _SKIP(line)
        line.decode()
    except DECODE_ERRORS as error:
        raise Reject(decode_reason(error, line)) from None
    if b"\\u0000" in line and ESCAPED_NUL.search(line):
        raise Reject(NO_NUL)


_SKIP = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class JsonlTransformer:
    """One row a line. The transformer of one chunk needs nothing but its load."""

    load_id: int

    def transform(self, lines: Sequence[bytes], line_nos: Sequence[int]) -> BatchRows:
        table = TableRows()
        batch = BatchRows(len(lines), [table])
        rows, ends, load_id = table.rows, table.ends, self.load_id
        for line_no, line in zip(line_nos, lines, strict=True):
            try:
                refuse(line)
                rows.append((load_id, line_no, line))
            except Reject as verdict:
                index = len(ends)
                if line.strip(BLANK):
                    batch.rejected.append(Verdict(index, verdict.reason))
                else:
                    batch.blank.append(index)
            ends.append(len(rows))
        return batch


def default_table(paths: Sequence[str]) -> str:
    """Name a table after the first path: of one file its name, of a glob, a list or a directory its directory's name.

    Guarantee:  a plain lower-case identifier in schema public, at most 63 bytes long; looks at the file system only to
                tell a directory from a file, and needs nothing to exist.
    """
    first = re.sub(r"(?<=://)[^/@]*@", "", paths[0] if paths else "")  # user and password belong into no name
    if first.startswith(("http://", "https://")):
        first = re.split(r"[?#]", first, maxsplit=1)[0]  # no glob there; it may be a signature
    parts = [part for part in re.split(r"[/\\]+", first.split("://", 1)[-1]) if part not in ("", ".")]
    wild = next((i for i, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    is_directory = first.endswith(("/", "\\")) or ("://" not in first and Path(first).is_dir())
    if wild is not None:
        parts = parts[:wild]
    elif not is_directory and len(paths) > 1:
        parts = parts[:-1]
    elif not is_directory and parts:
        parts[-1] = _without_suffixes(parts[-1])
    if not parts or parts[-1] == "..":
        parts = [Path(*parts).resolve().name]
    return "public." + _identifier(parts[-1])


def _without_suffixes(name: str) -> str:
    path = Path(name)
    if path.suffix.lower() in COMPRESSION_SUFFIXES:
        path = path.with_suffix("")
    return path.stem


def _identifier(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "lines"
    return ("t_" + plain if plain[0].isdigit() else plain)[:IDENTIFIER_BYTES].rstrip("_")
