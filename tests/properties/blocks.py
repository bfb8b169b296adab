"""Any size of blocks: constants of the product, which real sources of any length never need to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from protheon_dask.workspace import archives, splitting


@contextmanager
def blocks_of(block_bytes: int, read_bytes: int, start_bytes: int) -> Iterator[None]:
    """Give out decompressed blocks of at most block_bytes, read read_bytes at a time, keep a start each start_bytes.

    Blocks of zstd cannot be made smaller than its own: one of them instead of eight is given out at a time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "BLOCK_BYTES", block_bytes)
        patch.setattr(archives, "_READ_BYTES", read_bytes)
        patch.setattr(archives, "_ZSTD_BLOCKS", 1)
        patch.setattr(splitting, "BLOCK_BYTES", start_bytes)
        yield
