"""Made-up reports."""

from __future__ import annotations

import gzip
import statistics
from pathlib import Path

import pytest
import zstandard

import protheon_dask as protheon
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.sample import BAD_KINDS, Shape, sample_lines, write_sample
from protheon_dask.words import size


def raw(path: Path) -> bytes:
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_one_seed_gives_the_same_bytes_whatever_the_compression(tmp_path: Path) -> None:
    contents = [raw(write_sample(tmp_path / f"s.jsonl{suffix}", 300, seed=5).path) for suffix in (".zst", ".gz", "")]
    assert contents[0] == contents[1] == contents[2]
    assert contents[0] != raw(write_sample(tmp_path / "other.jsonl", 300, seed=6).path)
    assert contents[0] == b"".join(line + b"\n" for line in sample_lines(300, seed=5))
    assert not list(tmp_path.glob("*.part"))


def _rejected(content: bytes) -> list[int]:
    lines = content.split(b"\n")[:-1]
    return [verdict.index + 1 for verdict in pgcr.open(ChunkContext(1, 1, "s")).transform(lines, range(1, len(lines) + 1)).rejected]


@pytest.mark.parametrize("shape", ["dump", "api", "mixed"])
def test_the_report_says_what_pgcr_finds(tmp_path: Path, shape: Shape) -> None:
    report = write_sample(tmp_path / "s.jsonl.zst", 600, shape=shape, n_bad=600)
    assert _rejected(raw(report.path)) == list(range(1, 601))  # also where a player of the line has two characters
    report = write_sample(tmp_path / "s.jsonl.zst", 600, shape=shape, n_bad=2 * len(BAD_KINDS))
    content = raw(report.path)
    assert (len(content), report.path.stat().st_size) == (report.raw_bytes, report.stored_bytes)
    lines = content.split(b"\n")[:-1]
    assert len(lines) == report.n_lines == 600
    batch = pgcr.open(ChunkContext(1, 1, "s")).transform(lines, range(1, len(lines) + 1))
    assert [verdict.index + 1 for verdict in batch.rejected] == [bad.line_no for bad in report.bad]
    assert {bad.kind for bad in report.bad} == {kind for kind, _ in BAD_KINDS}
    assert batch.parts == []
    ids = [row[0] for row in batch.tables[0].rows]
    assert ids == sorted(set(ids))
    assert [len(batch.tables[i].rows) for i in (3, 4)] == [report.n_entries, report.n_weapons]


def test_lines_have_5_to_8_kb_and_few_players_come_often() -> None:
    lines = list(sample_lines(2000))
    assert 5_000 <= statistics.mean(map(len, lines)) <= 8_000
    batch = pgcr.open(ChunkContext(1, 1, "s")).transform(lines, range(1, len(lines) + 1))
    seen: dict[int, int] = {}
    for row in batch.tables[1].rows:
        seen[row[0]] = seen.get(row[0], 0) + 1
    counts = sorted(seen.values(), reverse=True)
    assert counts[0] > 50 > 1 == statistics.median(counts)
    halves = [{row[0] for row in batch.tables[1].of_lines(*half)} for half in ((0, 1000), (1000, 2000))]
    assert len(halves[0] & halves[1]) > 300


@pytest.mark.parametrize(("name", "n_lines", "n_bad"), [("s.jsonl.xz", 10, 0), ("s.jsonl", 0, 0), ("s.jsonl", 3, 4)])
def test_what_makes_no_sense_is_refused(tmp_path: Path, name: str, n_lines: int, n_bad: int) -> None:
    with pytest.raises(ConfigError):
        write_sample(tmp_path / name, n_lines, n_bad=n_bad)
    assert not list(tmp_path.iterdir())


def test_a_report_reads_as_the_command_tells_it_and_is_there_by_the_public_name(tmp_path: Path) -> None:
    report = protheon.write_sample(tmp_path / "s.jsonl", 20, n_bad=2)
    assert str(report) == f"{report.path}: 20 lines, 2 of them bad; {size(report.raw_bytes)} of JSON in {size(report.stored_bytes)}"
