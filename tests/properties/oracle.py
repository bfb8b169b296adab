"""What a line is, and what a chunk file holds, said without the product: nothing here imports it."""

from __future__ import annotations

from pathlib import Path

import zstandard


def lines_of(raw: bytes) -> list[bytes]:
    """The lines of raw with their ends: DESIGN 2 as a person would write it down."""
    *ended, last = raw.split(b"\n")
    return [line + b"\n" for line in ended] + ([last] if last else [])


def raw_of_chunk_file(directory: Path, load_id: int, first_line: int, generation: int) -> bytes:
    """The raw bytes of a chunk file, by any zstd reader."""
    [path] = (directory / str(load_id)).glob(f"{first_line:012d}.{generation}.zst")
    with path.open("rb") as fileobj:
        return zstandard.ZstdDecompressor().stream_reader(fileobj, read_across_frames=True).read()
