"""What `make bench` prints, from made-up rounds."""

from __future__ import annotations

from benchmarks.figures import Measured, ProductRound, result, table
from protheon_dask.model import STAGES

CONTRACT = {
    "floor_s",
    "duckdb_s",
    "protheon_s",
    "ratio_floor",
    "ratio_duckdb",
    "lines_per_s",
    "rss_mb_max",
    "rss_mb_max_10pct",
    "stage_seconds",
    "ledger_share",
}


def a_round(seconds: float, *, ledger_s: float = 1.0, attempt_s: float = 50.0, rss_mb: tuple[float, ...] = (150.0, 160.0)) -> ProductRound:
    return ProductRound(seconds, {**dict.fromkeys(STAGES, seconds), "ledger": ledger_s}, attempt_s, rss_mb)


def measured(**changes: object) -> Measured:
    values = {
        "n_lines": 400_000,
        "floor_s": [20.0, 10.0, 11.0],
        "duckdb_s": [60.0, 44.0, 40.0],
        "duckdb_parallel_s": [33.0, 30.0, 31.0],
        "protheon": [a_round(22.0), a_round(20.0, ledger_s=2.0), a_round(90.0, rss_mb=(149.0, 171.25))],
        "rss_mb_10pct": [140.0, 155.55],
    }
    return Measured(**{**values, **changes})  # type: ignore[arg-type]


def test_ratios_are_of_medians_and_say_our_time_over_the_floors_and_our_speed_over_duckdbs() -> None:
    got = result(measured())
    assert (got["floor_s"], got["duckdb_s"], got["protheon_s"]) == (11.0, 44.0, 22.0)
    assert (got["ratio_floor"], got["ratio_duckdb"]) == (2.0, 2.0)
    assert got["lines_per_s"] == round(400_000 / 22)


def test_the_object_has_the_keys_that_are_promised() -> None:
    assert set(result(measured())) >= CONTRACT
    assert set(result(measured())["stage_seconds"]) == set(STAGES)


def test_memory_is_the_largest_peak_of_any_process_in_any_round() -> None:
    assert (result(measured())["rss_mb_max"], result(measured())["rss_mb_max_10pct"]) == (171.2, 155.6)


def test_the_ledgers_share_is_of_all_rounds_together() -> None:
    assert result(measured())["ledger_share"] == round(4.0 / 150.0, 4)


def test_who_could_not_be_had_is_null_and_named() -> None:
    alone = measured(floor_s=[], duckdb_s=[], duckdb_parallel_s=[])
    got = result(alone)
    assert {got[key] for key in ("floor_s", "duckdb_s", "ratio_floor", "ratio_duckdb", "ratio_duckdb_parallel")} == {None}
    assert table(alone).count("not measured") == 3


def test_the_table_has_a_row_for_each_contestant_with_its_rounds() -> None:
    lines = table(measured()).splitlines()
    assert len(lines) == 5
    assert "22.00 20.00 90.00" in lines[-1]
    assert lines[-1].endswith("2.00")
