"""What the contestants load, made once and kept below .bench/: the sample, its tenth, and the same rows as binary COPY files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import xxhash
from psycopg import sql

from protheon_dask.pipelines import pgcr, pgcr_model, pgcr_tables, sample
from protheon_dask.pipelines.pgcr_tables import TABLES

SEED: Final = 1
N_BAD: Final = 10
"""Broken lines in the sample: enough that each kind is there, few enough to leave the time alone."""
N_HALVES: Final = 2
"""The floor is loaded by two psql at a time."""

MIDDLE: Final = "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY {key}) FROM {relation}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A compressed file of reports, of which n_bad are rejected by Protheon."""

    path: Path
    n_lines: int
    n_bad: int
    n_entries: int
    n_weapons: int


def make_sample(directory: Path, n_lines: int) -> Sample:
    """The sample of this many lines; written anew where it is missing or the generator has changed."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"sample-{n_lines}-{_code(sample)}.jsonl.zst"
    facts = path.with_suffix(".json")
    if not facts.exists():
        report = sample.write_sample(path, n_lines, seed=SEED, n_bad=min(N_BAD, n_lines))
        made = Sample(path, n_lines, len(report.bad), report.n_entries, report.n_weapons)
        facts.write_text(json.dumps({**dataclasses.asdict(made), "path": path.name}))
    read = json.loads(facts.read_text())
    return Sample(**{**read, "path": path})


def copy_directory(made: Sample) -> Path:
    """Where the sample's binary COPY files are, whether or not they were made."""
    return made.path.with_name(f"copy-{made.path.name.split('.')[0]}-{_code(pgcr, pgcr_model, pgcr_tables)}")


def export_copy_files(url: str, directory: Path) -> None:
    """Write what the five tables hold as binary COPY files, for each half of the keys one file a table, in the order of keys.

    Guarantee: directory is complete or absent.
    """
    making = directory.with_name(directory.name + ".part")
    making.mkdir(exist_ok=True)
    with psycopg.connect(url) as conn:
        for table in TABLES:
            key, relation = sql.Identifier(table.primary_key[0]), sql.Identifier(*table.name.split("."))
            middle = conn.execute(sql.SQL(MIDDLE).format(key=key, relation=relation)).fetchone()
            assert middle is not None  # an aggregate always has its row
            for half, operator in enumerate(("<=", ">"), start=1):
                query = sql.SQL("COPY (SELECT * FROM {} WHERE {} {} {} ORDER BY {}) TO STDOUT (FORMAT binary)").format(
                    relation,
                    key,
                    sql.SQL(operator),
                    sql.Literal(middle[0]),
                    sql.SQL(", ").join(map(sql.Identifier, table.primary_key)),
                )
                with (making / f"{table.name}.{half}.bin").open("wb") as out, conn.cursor().copy(query) as copy:
                    for data in copy:
                        out.write(data)
    making.rename(directory)


def read_ahead(paths: Sequence[Path]) -> None:
    """Read files once, so that each contestant finds them in the system's cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass


def _code(*modules: object) -> str:
    """Changes with the text of these modules."""
    digest = xxhash.xxh3_64()
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())  # type: ignore[attr-defined]  # modules have it
    return digest.hexdigest()[:8]
