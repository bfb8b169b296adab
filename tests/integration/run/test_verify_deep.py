"""verify --deep finds what is in the tables and should not be, and what should be and is not; and nothing where all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protheon_dask.run import api
from tests.integration.run.conftest import Bench

PIPELINE = """
import protheon_dask as protheon

T = protheon.Table(name="public.{name}", columns=({columns}), {options})

@protheon.pipeline(version="1", tables=[T])
def {name}(line: dict):
    return T, {{name: line.get(name) for name in {names}}}
"""


def write_pipeline(directory: Path, name: str = "deep", columns: str = "n bigint, s text", **options: Any) -> str:
    """A file with a pipeline of JSON objects into public.<name>."""
    pairs = [column.strip().split(" ", 1) for column in columns.split(", ")]
    told = {"provenance": True, **options}
    path = directory / f"{name}.py"
    path.write_text(
        PIPELINE.format(
            name=name,
            columns="".join(f"protheon.Column({column!r}, {type_!r}), " for column, type_ in pairs),
            names=[column for column, _ in pairs],
            options=", ".join(f"{key}={value!r}" for key, value in told.items()),
        )
    )
    return f"{path}:{name}"


def lines(*numbers: int) -> str:
    return "".join(f'{{"n": {n}, "s": "number {n}"}}\n' for n in numbers)


def load(bench: Bench, pipeline: str, text: str, **options: Any) -> None:
    bench.submit(text, pipeline=pipeline, **{"checksum": True, **options})
    assert set(bench.load_all(bench.worker())) == {"succeeded"}


def verify(bench: Bench) -> api.Verification:
    return api.verify_run(bench.url, bench.run_id, deep=True)


@pytest.fixture
def loaded(bench: Bench) -> Bench:
    """Three chunks of a table without a key, with checksums."""
    load(bench, write_pipeline(bench.directory), lines(*range(25)))
    return bench


def test_a_run_whose_rows_all_stand_has_no_finding(loaded: Bench) -> None:
    found = verify(loaded)
    assert (found.findings, found.notes) == ((), ())
    [table] = found.tables
    assert (table.table, table.checked, table.n_rows, table.n_chunks, table.n_summed) == ("public.deep", True, 25, 3, 3)


DAMAGES: list[tuple[str, str, list[str]]] = [
    ("dropped", "DELETE FROM deep WHERE n = 12", ["chunk 2 of {path} (lines 11 to 20): 10 rows were loaded, 9 are there: 1 is missing"]),
    (
        "doubled",
        "INSERT INTO deep SELECT * FROM deep WHERE n = 3",
        ["chunk 1 of {path} (lines 1 to 10): 10 rows were loaded, 11 are there: 1 too many"],
    ),
    (
        "flipped",
        "UPDATE deep SET s = 'number 66' WHERE n = 6",
        ["chunk 1 of {path} (lines 1 to 10): the 10 rows that are there do not hold the values that were loaded"],
    ),
    ("made null", "UPDATE deep SET s = NULL WHERE n = 24", ["chunk 3 of {path} (lines 21 to 25): the 5 rows that are there do not hold"]),
    (
        "exchanged between two rows",
        "UPDATE deep SET s = CASE n WHEN 1 THEN 'number 2' ELSE 'number 1' END WHERE n IN (1, 2)",
        ["chunk 1 of {path} (lines 1 to 10): the 10 rows"],
    ),
    (
        "moved to another chunk",
        "UPDATE deep SET _protheon_chunk = (SELECT max(_protheon_chunk) FROM deep) WHERE n = 1",
        ["chunk 1 of {path} (lines 1 to 10): 10 rows were loaded, 9 are", "chunk 3 of {path} (lines 21 to 25): 5 rows were loaded, 6 are"],
    ),
    (
        "of a chunk that no ledger knows",
        "INSERT INTO deep VALUES (1, 'x', 987654), (2, 'y', 987654)",
        ["2 rows are of chunk task 987654, which this ledger does not know"],
    ),
    (
        "all gone",
        "TRUNCATE deep",
        ["10 rows were loaded, 0 are there: 10 are missing"] * 2 + ["5 rows were loaded, 0 are there: 5 are missing"],
    ),
    ("without their table", "DROP TABLE deep", ["table public.deep does not exist any more"]),
    ("without a column", "ALTER TABLE deep DROP COLUMN s", ["has lost column 's'"]),
]


def test_rows_that_are_not_as_they_were_loaded_are_found(loaded: Bench) -> None:
    """One damage after the other, each in the table as it was loaded."""
    loaded.conn.execute("CREATE TABLE whole AS TABLE deep")
    [(path,)] = loaded.ask("SELECT path FROM protheon.load")
    for name, damage, expected in DAMAGES:
        loaded.conn.execute("DROP TABLE IF EXISTS deep; CREATE TABLE deep AS TABLE whole")
        assert verify(loaded).findings == ()
        loaded.conn.execute(damage.encode())
        verified = verify(loaded)
        found = verified.findings
        assert (name, len(found)) == (name, len(expected))
        for finding, words in zip(found, expected, strict=True):
            assert words.format(path=path) in finding
        [table] = verified.tables
        assert (table.verdict, table.findings, table.why_not is None) == ("differs", found, table.checked)
        assert verified.differs == ({"rows that are in the tables, chunk by chunk": found} if table.checked else {})
    assert api.verify_run(loaded.url).findings == ()  # the ledger alone cannot know


def test_a_row_of_a_dead_attempt_is_found(loaded: Bench) -> None:
    """A chunk that gave up left nothing; a row that says it is of that chunk came from somewhere else."""
    loaded.conn.execute("UPDATE protheon.task SET state = 'dead' WHERE id = %s", (loaded.task_ids[2],))
    assert "chunk 3" in " ".join(
        finding for finding in verify(loaded).findings if "was not loaded (it is dead), and 5 rows of it are there" in finding
    )


def test_rows_are_counted_without_checksums_and_without_provenance_not_at_all(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory)
    load(bench, pipeline, lines(*range(12)), checksum=False)
    found = verify(bench)
    assert (found.findings, found.notes) == ((), ("table public.deep: counted; values not compared: the load was made without --checksum",))
    bench.conn.execute("DELETE FROM deep WHERE n = 1")
    assert "1 is missing" in " ".join(verify(bench).findings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "options", "more"),
    [
        ("n bigint, s varchar(20)", {}, "compares n, but not s"),
        ("n bigint, s varchar(20)", {"primary_key": ("n",)}, "would not compare s either"),  # as jsonl's table
    ],
)
def test_what_checksums_would_not_compare_is_said_where_there_are_none(
    bench: Bench, columns: str, options: dict[str, Any], more: str
) -> None:
    load(bench, write_pipeline(bench.directory, columns=columns, **options), lines(*range(3)), checksum=False)
    assert verify(bench).notes == (f"table public.deep: counted; values not compared: the load was made without --checksum, which {more}",)

    load(bench, write_pipeline(bench.directory, "bare", provenance=False), lines(*range(12)))
    found = verify(bench)
    assert found.findings == ()
    assert found.notes == ("table public.bare: not checkable: the pipeline keeps no provenance (provenance=True)",)
    [table] = found.tables
    assert (table.checked, table.verdict, table.lacks_provenance) == (False, "not looked at", True)
    assert table.why_not == "the pipeline keeps no provenance (provenance=True)"


def test_other_loads_into_the_same_table_are_none_of_this_runs_business(loaded: Bench) -> None:
    first = loaded.run_id
    load(loaded, str(loaded.directory / "deep.py") + ":deep", lines(*range(25, 40)))
    assert verify(loaded).findings == ()
    loaded.conn.execute("DELETE FROM deep WHERE n = 30")
    assert len(verify(loaded).findings) == 1
    assert api.verify_run(loaded.url, first, deep=True).findings == ()


def test_refused_lines_are_in_no_checksum(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory, columns="n integer, s text", primary_key=("n",))
    load(bench, pipeline, lines(*range(5), 3, 2**40, 7, 8, 7))
    assert bench.ask("SELECT count(*) FROM deep") == [(7,)]
    found = verify(bench)
    assert (found.findings, found.tables[0].n_summed) == ((), 1)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["direct", "shared"])
def test_ignored_rows_leave_a_chunk_counted_but_not_compared(bench: Bench, shared: bool) -> None:
    pipeline = write_pipeline(bench.directory, columns="n bigint, s text", primary_key=("n",), on_conflict="ignore", shared=shared)
    load(bench, pipeline, lines(*range(10), *range(5, 15), *range(20, 30)))
    found = verify(bench)
    assert (found.findings, found.tables[0].n_summed) == ((), 2)
    assert found.notes == (
        "table public.deep: 1 chunk counted; values not compared: rows of them were ignored by the table's conflict rule",
    )
    bench.conn.execute("UPDATE deep SET s = 'x' WHERE n = 25")
    assert "do not hold the values" in " ".join(verify(bench).findings)
    bench.conn.execute("DELETE FROM deep WHERE n = 12")
    assert "5 rows were loaded, 4 are there" in " ".join(verify(bench).findings)


def test_replaced_rows_are_no_finding_and_a_lost_one_is(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory, columns="n bigint, s text", primary_key=("n",), on_conflict="update")
    load(bench, pipeline, lines(*range(10), *range(5, 15), *range(20, 30)))
    found = verify(bench)
    assert (found.findings, found.tables[0].n_summed) == ((), 2)
    assert found.notes == ("table public.deep: 5 rows of this run may have been replaced by later chunks: their chunks were not compared",)
    bench.conn.execute("DELETE FROM deep WHERE n = 7")
    assert verify(bench).findings == ("table public.deep: all loads together inserted 25 rows, 24 are there: 1 or more missing",)
    bench.conn.execute("UPDATE deep SET s = 'x' WHERE n = 25")
    assert "chunk 3" in verify(bench).findings[1]


@pytest.mark.slow
def test_rows_that_another_pipeline_replaced_are_no_finding(bench: Bench) -> None:
    """What became of a row is told by the rule of the pipeline that came later, not by that of the run that is verified."""
    keyed: dict[str, Any] = {"columns": "n bigint, s text", "primary_key": ("n",)}
    load(bench, write_pipeline(bench.directory, **keyed), lines(*range(25)))
    first = bench.run_id
    load(bench, write_pipeline(bench.directory, **keyed, on_conflict="update"), lines(*range(20, 30)))
    found = api.verify_run(bench.url, first, deep=True)
    assert found.findings == ()
    assert "5 rows of this run may have been replaced by later chunks" in found.notes[0]

    load(bench, write_pipeline(bench.directory, **keyed, on_conflict="update", provenance=False), lines(3, 99).replace("number", "no"))
    found = api.verify_run(bench.url, first, deep=True)
    assert found.findings == ()
    assert "loads of a pipeline without provenance replaced 1 row of it" in found.notes[0]
    bench.conn.execute("DELETE FROM deep WHERE n = 5")
    assert "1 or more missing" in " ".join(api.verify_run(bench.url, first, deep=True).findings)


def test_sums_cannot_be_taken_apart_again(bench: Bench) -> None:
    pipeline = write_pipeline(bench.directory, columns="n bigint, s bigint", primary_key=("n",), on_conflict="add")
    load(bench, pipeline, "".join(f'{{"n": 1, "s": {n}}}\n' for n in range(15)))
    found = verify(bench)
    assert (found.findings, found.notes) == (
        (),
        ("table public.deep: not checkable: its rows are sums of many chunks (on_conflict='add')",),
    )


def test_columns_that_come_back_otherwise_are_named(bench: Bench) -> None:
    bench.conn.execute(
        "CREATE TABLE deep (n bigint, d jsonb, c char(5), p numeric(6, 2), i bigint GENERATED ALWAYS AS IDENTITY, _protheon_chunk bigint)"
    )
    pipeline = write_pipeline(bench.directory, columns="n bigint, d jsonb, c char(5), p numeric(6,2)")
    load(bench, pipeline, '{"n": 1, "d": {"b": 1, "a": 1.0}, "c": "x", "p": 1}\n')
    found = verify(bench)
    assert (found.findings, found.notes) == ((), ("table public.deep: not compared: d, c, p, i",))
    assert found.tables[0].not_compared == ("d", "c", "p", "i")
    bench.conn.execute("UPDATE deep SET d = '{}'")
    assert verify(bench).findings == ()
    bench.conn.execute("UPDATE deep SET n = 2")
    assert len(verify(bench).findings) == 1


def test_a_trigger_that_changes_rows_is_no_false_alarm(bench: Bench) -> None:
    bench.conn.execute("CREATE TABLE deep (n bigint, s text, _protheon_chunk bigint)")
    bench.conn.execute("CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.s = upper(NEW.s); RETURN NEW; END$$")
    bench.conn.execute("CREATE TRIGGER loud BEFORE INSERT ON deep FOR EACH ROW EXECUTE FUNCTION loud()")
    load(bench, write_pipeline(bench.directory), lines(*range(5)))
    found = verify(bench)
    assert (found.findings, found.notes) == ((), ("table public.deep: counted; values not compared: its triggers may change rows (loud)",))


def test_a_table_altered_since_is_no_false_alarm(loaded: Bench) -> None:
    loaded.conn.execute("CREATE DOMAIN label AS text")
    loaded.conn.execute("ALTER TABLE deep ADD COLUMN more int DEFAULT 5, ALTER COLUMN s TYPE label")
    found = verify(loaded)
    assert (found.findings, found.tables[0].n_summed, found.tables[0].not_compared) == ((), 3, ("more",))
    loaded.conn.execute("ALTER TABLE deep ALTER COLUMN n TYPE numeric")
    found = verify(loaded)
    assert (found.findings, found.tables[0].n_rows, found.tables[0].n_summed) == ((), 25, 0)
    assert "column 'n' is numeric, the pipeline's is bigint" in found.notes[0]


def test_checksums_of_other_columns_are_not_compared(loaded: Bench) -> None:
    loaded.conn.execute("UPDATE protheon.table_count SET compared = compared + 1, checksum = 0")
    found = verify(loaded)
    assert found.findings == ()
    assert found.notes == ("table public.deep: 3 chunks counted; values not compared: the table's columns are not what they were",)


def test_neither_a_rewrite_nor_a_dump_nor_partitions_matter(bench: Bench, postgres_url: str) -> None:
    bench.conn.execute("CREATE TABLE deep (n bigint, s text, _protheon_chunk bigint) PARTITION BY RANGE (n)")
    for part, (first, last) in enumerate([(0, 7), (7, 15), (15, 99)]):
        bench.conn.execute(f"CREATE TABLE deep_{part} PARTITION OF deep FOR VALUES FROM ({first}) TO ({last})".encode())
    load(bench, write_pipeline(bench.directory), lines(*range(25)))
    bench.conn.execute("VACUUM FULL deep_1")
    assert verify(bench).findings == ()
    bench.conn.execute("CREATE TABLE copied AS SELECT * FROM deep ORDER BY s DESC")
    bench.conn.execute("TRUNCATE deep")
    bench.conn.execute("INSERT INTO deep SELECT * FROM copied")
    found = verify(bench)
    assert (found.findings, found.tables[0].n_summed) == ((), 3)
    bench.conn.execute("UPDATE deep_2 SET s = '' WHERE n = 24")
    assert len(verify(bench).findings) == 1


def test_lines_of_jsonl_name_their_load_themselves(bench: Bench) -> None:
    load(bench, "jsonl", lines(*range(25)))
    [(table,)] = bench.ask("SELECT table_name FROM protheon.table_count LIMIT 1")
    found = verify(bench)
    assert (found.findings, found.tables[0].n_rows, found.tables[0].not_compared) == ((), 25, ("doc",))
    bench.conn.execute(f"DELETE FROM {table} WHERE line_no = 11".encode())
    [finding] = verify(bench).findings
    assert "chunk 2" in finding
    assert "1 is missing" in finding
    bench.conn.execute(f"INSERT INTO {table} VALUES (999, 1, '{{}}')".encode())
    assert any("which this ledger does not know" in finding for finding in verify(bench).findings)


def test_what_is_loaded_meanwhile_is_not_seen_half(loaded: Bench) -> None:
    """Ledger and tables are read in one snapshot: rows that are deleted while the table is read are still seen."""

    def delete(table: str, n_rows: int) -> None:
        loaded.conn.execute("DELETE FROM deep WHERE n > 20")

    loaded.conn.execute("UPDATE deep SET s = s")
    found = api.verify_run(loaded.url, loaded.run_id, deep=True, on_rows=delete)
    assert found.findings == ()
    assert len(verify(loaded).findings) == 1
