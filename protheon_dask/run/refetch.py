"""The bytes of a chunk, or of a line, once more: from the broker's chunk files, else from the source; the same ones, or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, BinaryIO, Final, cast

import xxhash

from protheon_dask.broker.chunks import WantedChunk
from protheon_dask.broker.client import BrokerClient
from protheon_dask.errors import ConfigError, NotFound, ProtheonError, SourceChanged, SourceDamaged
from protheon_dask.ledger.chunks import FoundChunk
from protheon_dask.workspace import chunkfile, cut
from protheon_dask.workspace.archives import BLOCK_BYTES, ForwardReader
from protheon_dask.workspace.source import identify_open, open_source
from protheon_dask.workspace.spool import LongLines
from protheon_dask.workspace.url import HIDDEN, absolute, shown

BROKER_S: Final = 1.0
"""How long a chunk file that is not there at once is waited for: the source is asked then."""
SLOWEST_LINK_BYTES_PER_S: Final = 64 << 10
"""As of a worker's fetch (run.ingest)."""
SPOOL_BYTES: Final = 32 << 20
"""Bytes of a chunk that stay in memory; the rest goes to a temporary file, which is this process's own."""


@contextmanager
def chunk_lines(chunk: FoundChunk, address: str, path: str | None) -> Iterator[Iterator[cut.LineBatch]]:
    """The lines of a chunk in the batches that a worker makes of them, for the time of the block.

    address: of the broker; empty: none is asked. path: where the source is for this process; None: where it was when it was cut.
    Raises:    ConfigError: neither has them, and why; what to do. ChecksumMismatch while they are read: the stored bytes are wrong.
    Guarantee: they are those of the manifest, by checksum. Memory is SPOOL_BYTES and a batch.
    """
    with cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)) as spool:
        blocks = _stored_or_raw(chunk, address, path, spool)
        yield cut.batches(blocks, chunk.manifest.first_line, chunk.manifest.byte_offset)


def _stored_or_raw(chunk: FoundChunk, address: str, path: str | None, spool: BinaryIO) -> Iterator[bytes]:
    told = []
    if address and path is None:
        try:
            _fetch(chunk, address, spool)
            return chunkfile.read_blocks(spool, chunk.manifest.raw_xxh3)
        except ProtheonError as error:
            told.append(f"the broker: {error}")
            spool.seek(0)
            spool.truncate()
    try:
        _read(chunk, path, spool)
    except ProtheonError as error:
        told.append(f"the source: {error}")
        way_on = "give path= with the place where this process finds it, or replay the chunk on the cluster"
        raise ConfigError(f"the bytes of chunk {chunk.task_id} cannot be had here; {'; '.join(told)}; {way_on}") from error
    return _blocks(spool)


def _fetch(chunk: FoundChunk, address: str, spool: BinaryIO) -> None:
    manifest, waited_s = chunk.manifest, 0.0

    def wait(seconds: float) -> None:
        nonlocal waited_s
        if (waited_s := waited_s + seconds) > BROKER_S:
            raise NotFound(f"it has no file of chunk {chunk.task_id} now")

    wanted = WantedChunk(chunk.task_id, manifest.generation, manifest.stored_bytes, manifest.stored_xxh3)
    with BrokerClient(address) as client:
        client.fetch_chunk(wanted, spool, deadline_s=BROKER_S + 10.0 + manifest.stored_bytes / SLOWEST_LINK_BYTES_PER_S, wait=wait)
    spool.seek(0)


def _read(chunk: FoundChunk, path: str | None, spool: BinaryIO) -> None:
    """Write the raw bytes of the chunk to the spool. Raises SourceChanged: they are not there any more; what open_source() raises."""
    manifest, place = chunk.manifest, source_of(chunk, path)
    digest = xxhash.xxh3_128()
    with closing(open_source(place)) as source:
        if identify_open(source, place) != chunk.identity:
            raise SourceChanged(f"{shown(place)}: it is not the file that was loaded")
        start = (manifest.restart_stored_offset, manifest.restart_raw_offset)
        try:
            for piece in ForwardReader(source, lambda _: None).read(start, manifest.byte_offset, manifest.raw_bytes):
                digest.update(piece)
                spool.write(piece)
        except SourceDamaged as exc:
            raise SourceChanged(f"{shown(place)}: it was whole when it was cut; now: {exc}") from exc
    if digest.digest() != manifest.raw_xxh3:
        raise SourceChanged(f"{shown(place)}: what is at byte {manifest.byte_offset:,} is not what was cut")
    spool.seek(0)


def _blocks(spool: IO[bytes]) -> Iterator[bytes]:
    while block := spool.read(BLOCK_BYTES):
        yield block


def whole_line(chunk: FoundChunk, path: str | None, byte_offset: int, head: bytes, n_bytes: int) -> bytes:
    """A line of which only the head is known, from the source. chunk: that in which it is. Raises as LongLines."""
    place = source_of(chunk, path)
    start = (chunk.manifest.restart_stored_offset, chunk.manifest.restart_raw_offset)
    with closing(LongLines(place, chunk.identity)) as source:
        return b"".join(source.read(start, byte_offset, head, n_bytes))


def source_of(chunk: FoundChunk, path: str | None) -> str:
    """Where this process finds the file that was cut. Raises ConfigError: its password is not known here."""
    place = chunk.path if path is None else absolute(path)
    if HIDDEN in place:
        raise ConfigError(f"{place}: its password is known to the master alone: give path= with the whole URL")
    return place
