"""The stored form of a chunk, and the directory of chunk files with its quota.

A chunk file is a plain sequence of pairs: a skippable zstd frame of 12 bytes with the length of the next frame (as pzstd
writes it), and a zstd frame of 1 MiB raw. So ``zstd -d`` reads it, a reader needs no search for frame ends, and memory is
bounded on both sides. Measured on JSON reports of 7 KB a line, 120 MB, one core, in frames of 1 MiB (MB/s of raw text):

======== ======== ========== =====
codec    compress decompress ratio
======== ======== ========== =====
zstd 3        493       2181   8.1
zstd 1        764       2450   8.7
zstd -1       846       2676   6.1
zstd -3       963       2860   5.6
zstd -5       943       2914   5.3
zstd -7      1041       2928   4.8
lz4           950       3443   4.6
======== ======== ========== =====

Level 1 is chosen: level -1 is a tenth faster and needs 1.4 times the disk and the wire. One frame for all of a chunk instead
of one a MiB is slower (525 MB/s) for 1 % less of it.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import xxhash
import zstandard

from protheon_dask import failpoints
from protheon_dask.errors import ChecksumMismatch, InvariantError
from protheon_dask.model import ChunkManifest

FRAME_BYTES = 1 << 20  # raw bytes a frame, the last one less
PARAMETERS = zstandard.ZstdCompressionParameters.from_level(1, hash_log=12, min_match=6)
"""See the table above; a hash table of 16 KiB stays in the core's first cache: 888 MB/s against 616, a ratio of 9.1 against 9.5."""
_PREFIX = b"\x50\x2a\x4d\x18\x04\x00\x00\x00"  # RFC 8878, 3.1.2: a skippable frame with 4 bytes of content
_PREFIX_BYTES = len(_PREFIX) + 4
_FRAME_BOUND_BYTES = FRAME_BYTES + (FRAME_BYTES >> 8) + 64  # ZSTD_COMPRESSBOUND for sizes above 128 KiB, rounded up
PARKED_FRACTION = 0.5  # default cap of the parked area, of the quota
QUOTA_BYTES = 20 << 30  # DESIGN, Defaults: the smaller of this
QUOTA_FRACTION = 0.2  # and this much of the disk

OWNER_DIR, OWNER_FILE = 0o700, 0o600
"""Modes: chunks hold the lines of sources that others may not be allowed to read."""
O_BINARY = getattr(os, "O_BINARY", 0)  # Windows', whose os.open() translates line ends without it

LoadId = int
FirstLine = int


class ChunkWriter:
    """Write one chunk file under a temporary name; end() and commit() put it in its place, abort() removes it.

    Shapes:     write() takes pieces of any size; the file depends on their concatenation alone.
    Guarantee:  after commit() the file is complete on disk under its name, over whatever had it. Before that nothing has.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._part = part_path(target, os.getpid())
        target.parent.mkdir(mode=OWNER_DIR, parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | O_BINARY, OWNER_FILE), "wb")
        self._compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)
        self._buffer = bytearray(FRAME_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._raw, self._stored = xxhash.xxh3_128(), xxhash.xxh3_128()
        self.raw_bytes = self.stored_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append raw bytes."""
        pos, size = 0, len(data)
        while pos < size:
            step = min(size - pos, FRAME_BYTES - self._filled)
            self._view[self._filled : self._filled + step] = data[pos : pos + step]
            self._filled += step
            pos += step
            if self._filled == FRAME_BYTES:
                self._end_frame()

    def end(self) -> bytes:
        """Write what is left; return the XXH3-128 of the raw bytes. Nothing may be written after it."""
        if self._filled:
            self._end_frame()
        return self._raw.digest()

    def commit(self) -> bytes:
        """Bring the ended file to disk and give it its name; return the XXH3-128 of the stored bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        failpoints.hit("rename.before")
        self._part.replace(self._target)
        failpoints.hit("rename.after")
        return self._stored.digest()

    def abort(self) -> None:
        """Remove what was written; after commit() do nothing."""
        if not self._file.closed:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self.abort()

    def _end_frame(self) -> None:
        raw = self._view[: self._filled]
        self._raw.update(raw)
        frame = self._compressor.compress(raw)
        record = b"".join((_PREFIX, len(frame).to_bytes(4, "little"), frame))
        self._stored.update(record)
        self._file.write(record)
        self.raw_bytes += self._filled
        self.stored_bytes += len(record)
        self._filled = 0


def read_blocks(stored: BinaryIO | bytes | bytearray, raw_xxh3: bytes) -> Iterator[bytes]:
    """Decompress a stored chunk block by block and check it at the end.

    Shapes:     blocks have 1 MiB, the last one less.
    Raises:     ChecksumMismatch: the bytes are not those of the manifest; what was read before is worthless.
    Guarantee:  memory is one frame and its block. A file object is read from where it stands and not closed.
    """
    decompressor = zstandard.ZstdDecompressor()
    digest = xxhash.xxh3_128()
    fileobj = io.BytesIO(stored) if isinstance(stored, bytes | bytearray) else stored
    for frame in _frames(fileobj, raw_xxh3):
        try:
            if not 0 < zstandard.frame_content_size(frame) <= FRAME_BYTES:
                raise ChecksumMismatch(raw_xxh3.hex(), "no digest: a frame of another size")
            block = decompressor.decompress(frame)
        except zstandard.ZstdError as exc:
            raise ChecksumMismatch(raw_xxh3.hex(), f"no digest: {exc}") from exc
        digest.update(block)
        yield block
    if digest.digest() != raw_xxh3:
        raise ChecksumMismatch(raw_xxh3.hex(), digest.hexdigest())


def _frames(stored: BinaryIO, raw_xxh3: bytes) -> Iterator[bytes]:
    while prefix := stored.read(_PREFIX_BYTES):
        n_bytes = int.from_bytes(prefix[len(_PREFIX) :], "little")
        if prefix[: len(_PREFIX)] != _PREFIX or n_bytes > _FRAME_BOUND_BYTES:
            raise ChecksumMismatch(raw_xxh3.hex(), "no digest: no frame where one should begin")
        frame = stored.read(n_bytes)
        if len(frame) != n_bytes:
            raise ChecksumMismatch(raw_xxh3.hex(), "no digest: the file ends within a frame")
        yield frame


def chunk_path(directory: Path, load_id: LoadId, first_line: FirstLine, generation: int) -> Path:
    """Where a chunk's file is: sorted by line in a listing."""
    return directory / str(load_id) / f"{first_line:012d}.{generation}.zst"


def part_path(target: Path, pid: int) -> Path:
    """The temporary name that the process pid gives to a chunk file while writing it."""
    return target.with_name(f".{target.name}.{pid}.part")


def default_quota_bytes(directory: Path) -> int:
    """The smaller of 20 GiB and 20 % of the disk that directory, which exists, is on."""
    return min(QUOTA_BYTES, int(shutil.disk_usage(directory).total * QUOTA_FRACTION))


class ChunkStore:
    """The chunk files of all loads in one directory: where each is, how much they are, which may go.

    Two areas, each with its cap: *live* files belong to ready and running tasks and hold the splitters back when they reach
    quota_bytes; *parked* ones belong to tasks in backoff, dead, or of a run that is paused. A parked file that does not fit
    is deleted: its chunk is cut again when it is wanted. So neither can bring the other to a standstill.

    Guarantee:  thread-safe; only the broker that leads owns a store. The files are a cache: losing any costs time only.
    """

    def __init__(self, directory: Path, quota_bytes: int, parked_cap_bytes: int | None = None) -> None:
        self.directory, self.quota_bytes = directory, quota_bytes
        self.parked_cap_bytes = int(quota_bytes * PARKED_FRACTION) if parked_cap_bytes is None else parked_cap_bytes
        directory.mkdir(mode=OWNER_DIR, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._live: dict[tuple[LoadId, FirstLine], ChunkManifest] = {}
        self._parked: dict[tuple[LoadId, FirstLine], ChunkManifest] = {}
        self._live_bytes = self._parked_bytes = 0

    def move_below(self, name: str) -> None:
        """Use a directory of this name below the one given: once, before adopt(), which deletes what it does not know."""
        self.directory = self.directory / name
        self.directory.mkdir(mode=OWNER_DIR, exist_ok=True)

    @property
    def live_bytes(self) -> int:
        return self._live_bytes

    @property
    def parked_bytes(self) -> int:
        return self._parked_bytes

    @property
    def room_bytes(self) -> int:
        """What may still be written before the splitters have to wait; negative when the last chunks were larger than that."""
        return self.quota_bytes - self._live_bytes

    def loads(self) -> dict[LoadId, bool]:
        """The loads that have files here; True: some of them in the splitters' quota."""
        with self._lock:
            return {load_id: False for load_id, _ in self._parked} | {load_id: True for load_id, _ in self._live}

    def add(self, load_id: LoadId, manifest: ChunkManifest) -> None:
        """Count a file that a splitter has put in its place; an older generation of it is deleted."""
        key = (load_id, manifest.first_line)
        with self._lock:
            old = self._forget(key)
            if manifest.stored_bytes:
                self._live[key] = manifest
                self._live_bytes += manifest.stored_bytes
        if old is not None and old.generation != manifest.generation:
            chunk_path(self.directory, load_id, old.first_line, old.generation).unlink(missing_ok=True)

    def manifest_of(self, load_id: LoadId, first_line: FirstLine) -> ChunkManifest | None:
        """The manifest of the form that is stored, or None if the chunk must be cut again."""
        with self._lock:
            key = (load_id, first_line)
            return self._live.get(key) or self._parked.get(key)

    def delete(self, load_id: LoadId, first_line: FirstLine) -> int:
        """Delete the chunk's file: its task succeeded or was cancelled. Return the bytes freed; 0 if there was none."""
        with self._lock:
            manifest = self._forget((load_id, first_line))
        if manifest is None:
            return 0
        chunk_path(self.directory, load_id, first_line, manifest.generation).unlink(missing_ok=True)
        return manifest.stored_bytes

    def delete_load(self, load_id: LoadId) -> int:
        """Delete all files of a load; return the bytes freed."""
        with self._lock:
            keys = [key for key in (*self._live, *self._parked) if key[0] == load_id]
        return sum(self.delete(*key) for key in keys)

    def park(self, load_id: LoadId, first_line: FirstLine) -> bool:
        """Move the file out of the splitters' quota: its task has to wait or is dead. False: no room, and it is deleted."""
        key = (load_id, first_line)
        with self._lock:
            if key in self._parked:
                return True
            manifest = self._live.get(key)
            if manifest is None:
                return False
            fits = self._parked_bytes + manifest.stored_bytes <= self.parked_cap_bytes
            self._forget(key)
            if fits:
                self._parked[key] = manifest
                self._parked_bytes += manifest.stored_bytes
        if not fits:
            chunk_path(self.directory, load_id, first_line, manifest.generation).unlink(missing_ok=True)
        return fits

    def unpark(self, load_id: LoadId, first_line: FirstLine) -> bool:
        """Count the file to the quota again: its task is ready. False: there is none, the chunk must be cut again."""
        key = (load_id, first_line)
        with self._lock:
            manifest = self._parked.get(key)
            if manifest is None:
                return key in self._live
            self._forget(key)
            self._live[key] = manifest
            self._live_bytes += manifest.stored_bytes
            return True

    def adopt(self, manifests: Iterable[tuple[LoadId, ChunkManifest]]) -> list[tuple[LoadId, ChunkManifest]]:
        """Keep the files that match a manifest by name and size, delete all others, return the manifests without a file.

        Once, at start, after leadership is held and before any splitter runs. manifests: of all tasks that may still need a
        file. Adopted files are live; park() those of tasks that wait or are dead afterwards. Contents are checked by readers.
        """
        found = {path: path.stat().st_size for path in self.directory.glob("*/*") if path.is_file()}
        missing: list[tuple[LoadId, ChunkManifest]] = []
        for load_id, manifest in manifests:
            path = chunk_path(self.directory, load_id, manifest.first_line, manifest.generation)
            if manifest.stored_bytes and found.get(path) == manifest.stored_bytes:
                del found[path]
                self.add(load_id, manifest)
            elif not manifest.oversized:
                missing.append((load_id, manifest))
        for path in found:
            path.unlink(missing_ok=True)
        for folder in self.directory.glob("*/"):
            if not any(folder.iterdir()):
                folder.rmdir()
        return missing

    def _forget(self, key: tuple[LoadId, FirstLine]) -> ChunkManifest | None:
        """Take a file out of the accounts; the caller holds the lock."""
        if (manifest := self._live.pop(key, None)) is not None:
            self._live_bytes -= manifest.stored_bytes
        elif (manifest := self._parked.pop(key, None)) is not None:
            self._parked_bytes -= manifest.stored_bytes
        if self._live_bytes < 0 or self._parked_bytes < 0:
            raise InvariantError(f"workspace: the account of {key} fell below zero")
        return manifest
