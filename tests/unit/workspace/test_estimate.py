"""How much a source holds, by its first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import zstandard

from protheon_dask.workspace.source import ESTIMATE_BYTES, Estimate, estimate, estimate_lines

PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("kind", PACK)
def test_a_small_source_is_counted_exactly_with_its_format(kind: str, tmp_path: Path) -> None:
    raw = b"".join(b"%d\n" % n for n in range(5_000)) + b"the last one has no end"
    path = tmp_path / "source"
    path.write_bytes(PACK[kind](raw))
    assert estimate(str(path), path.stat().st_size) == Estimate(5_001, len(raw), kind, True)  # type: ignore[arg-type]  # a Format


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_a_large_source_is_estimated_within_a_tenth_and_says_that_it_is(kind: str, tmp_path: Path) -> None:
    random = Random(1)
    raw = b"".join(random.randbytes(480).hex().encode() + b"\n" for _ in range(3 * ESTIMATE_BYTES // 960))
    path = tmp_path / "source"
    path.write_bytes(PACK[kind](raw))
    found = estimate(str(path), path.stat().st_size)
    assert not found.is_exact
    assert found.n_lines == pytest.approx(raw.count(b"\n"), rel=0.1)
    assert found.raw_bytes == pytest.approx(len(raw), rel=0.1)
    assert estimate_lines(str(path), path.stat().st_size) == found.n_lines


def test_of_a_damaged_source_what_is_whole_is_counted_and_not_called_exact(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(gzip.compress(b"one\ntwo\n") + gzip.compress(bytes(9_999))[:20])
    found = estimate(str(path), path.stat().st_size)
    assert (found.n_lines, found.is_exact) == (2, False)
