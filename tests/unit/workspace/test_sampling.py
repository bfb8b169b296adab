"""Samples of real files: where they are from, that they are whole lines, and that they are what they are every time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from protheon_dask.errors import NotFound, SourceDamaged
from protheon_dask.workspace import sampling
from protheon_dask.workspace.sampling import sample_sources

PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "zstd": lambda raw: zstandard.ZstdCompressor(level=1).compress(raw),
    "gzip": lambda raw: gzip.compress(raw, 1),
    "bzip2": lambda raw: bz2.compress(raw, 1),
    "xz": lambda raw: lzma.compress(raw, preset=0),
}
N_LINES = 60_000


def numbered(n_lines: int, width: int = 60) -> bytes:
    """Lines that say their number, and noise that compresses as JSON does."""
    noise = random.Random(1).randbytes(n_lines + width).hex().encode()
    return b"".join(b"<%d>%s%s\n" % (n, noise[n : n + n * 7 % 20], b"x" * (n * 7 % width)) for n in range(n_lines))


def numbers(lines: list[bytes]) -> list[int]:
    assert all(line.startswith(b"<") for line in lines)  # whole lines
    return [int(line[1 : line.index(b">")]) for line in lines]


@pytest.mark.parametrize("form", PACK)
def test_a_sample_is_from_the_head_and_from_places_beyond(form: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(PACK[form](numbered(N_LINES)))
    sample = sample_sources([str(path)], 1_000)
    found = numbers(sample.lines)
    assert found == sorted(set(found))
    assert len(found) == 1_000
    assert found[0] == 0
    assert found[-1] > N_LINES // 2
    assert not sample.is_whole
    assert "its head and" in sample.places
    assert sample_sources([str(path)], 1_000) == sample


@pytest.mark.parametrize("form", PACK)
def test_a_small_source_is_taken_whole(form: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(PACK[form](b"\xef\xbb\xbf<0>\r\n<1>"))
    sample = sample_sources([str(path)], 2)
    assert sample.lines == [b"<0>", b"<1>"]
    assert sample.is_whole


def test_a_source_with_one_line_more_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(numbered(11))
    assert not sample_sources([str(path)], 10).is_whole


def test_long_lines_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"<%d>%s\n" % (n, b"x" * 100_000) for n in range(200)))
    sample = sample_sources([str(path)], 1_000, max_bytes=1_000_000)
    assert 5 <= len(sample.lines) <= 11
    assert numbers(sample.lines)[-1] > 100


def test_one_line_beyond_all_bounds_is_still_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"<0>" + b"x" * (3 << 20))
    assert numbers(sample_sources([str(path)], 10, max_bytes=1_000).lines) == [0]


def test_of_many_files_five_that_are_spread_over_them_are_looked_at(tmp_path: Path) -> None:
    for n in range(23):
        (tmp_path / f"{n:02d}").write_bytes(b"<%d>\n" % n * 100)
    sample = sample_sources([str(path) for path in sorted(tmp_path.iterdir())], 50)
    assert sorted(set(numbers(sample.lines))) == [0, 5, 10, 15, 20]
    assert (len(sample.lines), sample.is_whole, sample.places) == (50, False, "of 5 of 23 files")


def test_of_few_files_all_lines_are_all_there_is(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / str(n)).write_bytes(b"<%d>\n" % n)
    sample = sample_sources([str(path) for path in sorted(tmp_path.iterdir())], 30)
    assert (numbers(sample.lines), sample.is_whole) == ([0, 1, 2], True)


def test_of_a_damaged_source_what_is_before_the_damage_is_a_sample(tmp_path: Path) -> None:
    whole = zstandard.compress(numbered(2_000)) + zstandard.compress(numbered(2_000))
    path = tmp_path / "lines.zst"
    path.write_bytes(whole[: len(whole) * 3 // 4])
    sample = sample_sources([str(path)], 100_000)
    assert len(sample.lines) >= 2_000
    assert (sample.is_whole, sample.places) == (False, "before its damage")


def test_a_source_that_is_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.zst"
    path.write_bytes(zstandard.compress(numbered(100))[:20])
    with pytest.raises(SourceDamaged):
        sample_sources([str(path)])
    with pytest.raises(NotFound):
        sample_sources([str(tmp_path / "nothing")])


def test_no_more_than_the_allowed_bytes_are_skimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines.zst"
    path.write_bytes(zstandard.compress(numbered(N_LINES)))
    monkeypatch.setattr(sampling, "SKIM_BYTES", 1 << 20)
    assert max(numbers(sample_sources([str(path)], 1_000).lines)) < 40_000


@pytest.mark.parametrize("form", PACK)
@pytest.mark.parametrize("n_lines", [1, 2, 7, 100, 299])
def test_no_line_is_taken_twice_and_none_is_missing_from_the_number_asked_for(form: str, n_lines: int, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(PACK[form](b"".join(b"<%d>%s\n" % (n, b"x" * (5_000 if n % 50 == 3 else 9)) for n in range(300))))
    sample = sample_sources([str(path)], n_lines)
    found = numbers(sample.lines)
    assert len(set(found)) == len(found) <= n_lines
    assert len(found) == n_lines if form != "plain" else len(found) >= n_lines // 2
    assert not sample.is_whole
