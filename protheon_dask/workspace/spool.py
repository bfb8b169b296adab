"""Files of refused lines, from which replays are cut, and the rest of those lines of which the ledger keeps only the beginning.

A spool has the form of a chunk file (workspace.chunkfile), which any zstd reads: ``zstd -dc`` shows its lines.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from os import SEEK_END
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Final

from protheon_dask.errors import SourceChanged, SourceDamaged
from protheon_dask.model import Identity
from protheon_dask.workspace.archives import BLOCK_BYTES, ForwardReader, Restart
from protheon_dask.workspace.chunkfile import OWNER_DIR, ChunkWriter
from protheon_dask.workspace.cut import LF
from protheon_dask.workspace.source import identify_open, open_source
from protheon_dask.workspace.url import shown

SPOOLS: Final = "replays"
"""The directory of spools in a workspace."""
SUFFIX: Final = ".lines.zst"
NAME_CHARS: Final = 60
"""Characters of a source's name that its spools' names keep."""
SCRATCH_BYTES: Final = 4 << 20
"""A line is kept in memory up to this size until it is known to be the right one."""


class SpoolStore:
    """The spools of one ledger, in a directory of their own, which no adoption of chunk files looks at. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: set[Path] = set()
        self._lock = threading.Lock()

    def move_below(self, name: str) -> None:
        """Use a directory of this name below the one given: once, before anything else."""
        self.directory = self.directory / name

    def path(self, run_id: int, load_id: int, source: str) -> Path:
        """Where the refused lines of a load go that this run replays; a person reads from it which those are."""
        name = shown(source).rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
        plain = "".join(char if char.isalnum() or char in ".-_" else "_" for char in name)[:NAME_CHARS]
        return self.directory / f"run-{run_id}-rejects-of-load-{load_id}-{plain}{SUFFIX}"

    @contextmanager
    def held(self) -> Iterator[set[Path]]:
        """A set to which the caller adds the spools that it writes: sweep() spares them until the block ends, with their loads made.

        What it wrote is deleted if the block raises.
        """
        mine = _Held(self._held, self._lock)
        try:
            yield mine
        except BaseException:
            for path in mine:
                path.unlink(missing_ok=True)
            raise
        finally:
            with self._lock:
                self._held -= mine

    def found(self) -> list[Path]:
        """Every file here that nobody is writing: ask the ledger afterwards which of them still have a use."""
        with self._lock:
            names = {path.name for path in self._held}
        if not self.directory.is_dir():
            return []
        return [path for path in self.directory.iterdir() if not any(name in path.name for name in names)]

    def sweep(self, found: Collection[Path], used: Collection[str]) -> None:
        """Delete what was found and is of no use."""
        for path in found:
            if str(path) not in used:
                with suppress(PermissionError):  # Windows, while a splitter has it open: the next sweep does it
                    path.unlink(missing_ok=True)


class _Held(set[Path]):
    """A set whose members are in the store's as well."""

    def __init__(self, store: set[Path], lock: threading.Lock) -> None:
        super().__init__()
        self._store, self._lock = store, lock

    def add(self, path: Path) -> None:
        with self._lock:
            self._store.add(path)
        super().add(path)


class SpoolWriter(ChunkWriter):
    """Write lines to a spool, each ended by LF. A context manager; without close() nothing stays."""

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(mode=OWNER_DIR, parents=True, exist_ok=True)
        super().__init__(target)

    def end_line(self) -> None:
        """The line whose bytes were written is whole."""
        self.write(LF)

    def close(self) -> None:
        """Bring the file to disk under its name."""
        self.end()
        self.commit()


class LongLines:
    """Reads whole lines of a source at known places, in ascending order, in one pass. Of those with a wide window one at a time.

    Raises: SourceChanged: the source is not what it was when its lines were refused. What open_source() raises.
    """

    _wide = threading.Lock()
    """Held by the one whose source has a window over WIDE_WINDOW_BYTES: it may take 2 GiB."""

    def __init__(self, path: str, identity: Identity) -> None:
        self._path, self._source, self._is_wide = path, open_source(path), False
        try:
            if identify_open(self._source, path) != identity:
                raise SourceChanged(f"{shown(path)}: it is not the file that was loaded")
        except BaseException:
            self._source.close()
            raise
        self._reader = ForwardReader(self._source, self._wait_wide)

    def read(self, start: Restart, begin: int, head: bytes, n_bytes: int) -> Iterator[bytes]:
        """Yield the line of n_bytes at the offset begin, which starts with head, in pieces and without its LF.

        start: a place before it where decompression may start.
        Raises:    SourceChanged: it is not there any more; SourceUnavailable. Both before the first piece.
        Guarantee: memory is SCRATCH_BYTES and one block of the archive; a longer line waits in a temporary file.
        """
        with SpooledTemporaryFile(max_size=SCRATCH_BYTES) as scratch:
            try:
                for piece in self._reader.read(start, begin, n_bytes):
                    scratch.write(piece)
            except SourceDamaged as exc:
                raise SourceChanged(f"{shown(self._path)}: it was whole when it was cut; now: {exc}") from exc
            size = scratch.tell()
            scratch.seek(0)
            if size != n_bytes or scratch.read(len(head)) != head:
                raise SourceChanged(f"{shown(self._path)}: the line at byte {begin:,} is not the one that was refused")
            scratch.seek(-1, SEEK_END)
            if scratch.read() == LF:  # a line that was beyond max_line_bytes was kept with its own
                scratch.seek(-1, SEEK_END)
                scratch.truncate()
            scratch.seek(0)
            while block := scratch.read(BLOCK_BYTES):
                yield block

    def close(self) -> None:
        del self._reader  # and with it the window, before another may have one
        self._source.close()
        if self._is_wide:
            self._is_wide = False
            LongLines._wide.release()

    def _wait_wide(self, _window_bytes: int) -> None:
        if not self._is_wide:
            self._is_wide = LongLines._wide.acquire()
