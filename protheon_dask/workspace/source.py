"""Sources by path or URL: which there are, what they are, whether they changed, how many lines they may have."""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import xxhash

from protheon_dask.errors import MissingSetting, NotFound, SourceChanged, SourceDamaged, SourceUnavailable
from protheon_dask.model import Identity
from protheon_dask.workspace.archives import open_archive
from protheon_dask.workspace.cut import LF

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]  # fsspec ships no types

WHOLE_BYTES = 64 << 20  # DESIGN 1: up to here all bytes are hashed, beyond it five samples
SAMPLE_BYTES = 1 << 20  # DESIGN 1: of each sample
ESTIMATE_BYTES = 4 << 20  # decompressed bytes looked at for an estimate: some 600 lines of 7 KB; smaller sources are counted exactly
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|[A-Za-z0-9+.-]+::")  # two letters at least: C:// is a drive
_HINTS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created", "sha")  # versions, as stores call them


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a store says of a source without reading it: unequal stamps mean that it may have changed."""

    size_bytes: int
    version: str  # mtime and inode of a local file, ETag or the like of an object


def resolve(paths: Sequence[str]) -> list[str]:
    """Name every source that files, directories, globs and fsspec URLs mean, each once, in the order given.

    A directory means its files, a glob the files that it matches; both sorted, hidden ones left out, without descending
    (``**`` descends). A name that exists is never read as a glob.

    Shapes:     local paths come back absolute, others as URLs.
    Raises:     NotFound: nothing is there; names the path and this host. MissingSetting: an extra for a URL is not
                installed. SourceUnavailable: the store does not answer.
    """
    found: dict[str, None] = {}
    for path in paths:
        names = _resolve_url(path) if is_url(path) else _resolve_local(path)
        if not names and not is_url(path) and _local(path).is_dir():
            only = "; hidden files and those of directories below are left out" if any(_local(path).iterdir()) else ""
            raise NotFound(f"{path}: the directory {'has no files' if only else 'is empty'} on host {socket.gethostname()}{only}")
        if not names:
            raise NotFound(f"{path}: no such file, and no files where it points, on host {socket.gethostname()}")
        found.update(dict.fromkeys(names))
    return list(found)


def is_url(path: str) -> bool:
    """Tell whether a path is for fsspec; file:// is not."""
    return bool(_URL.match(path)) and not path.startswith("file://")


def _local(path: str) -> Path:
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - Path.absolute() keeps "..", resolve() follows links


def _resolve_local(path: str) -> list[str]:
    local = _local(path)
    if local.is_dir():
        return sorted(str(entry) for entry in local.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if local.exists():
        return [str(local)]
    if not glob.has_magic(str(local)):
        return []
    return sorted(match for match in glob.glob(str(local), recursive=True) if Path(match).is_file())  # noqa: PTH207 - Path.glob takes no absolute pattern


def _resolve_url(url: str) -> list[str]:
    with _foreign(url):
        files, path = _filesystem(url)
        if files.isdir(path):
            entries = cast("list[dict[str, Any]]", files.ls(path, detail=True))
            names = [str(e["name"]) for e in entries if e["type"] == "file" and not str(e["name"]).rsplit("/", 1)[-1].startswith(".")]
        elif files.exists(path):
            return [url]
        elif glob.has_magic(path):
            entries_by_name = cast("dict[str, dict[str, Any]]", files.glob(path, detail=True))
            names = [name for name, entry in entries_by_name.items() if entry["type"] == "file"]
        else:
            names = []
        return sorted(files.unstrip_protocol(name) for name in names)


def open_source(path: str) -> BinaryIO:
    """Open a source for reading and seeking; the caller closes it.

    Raises:     SourceUnavailable: it is not there, or cannot be read at the moment.
    """
    with _foreign(path):
        if is_url(path):
            files, name = _filesystem(path)
            return cast("BinaryIO", files.open(name, "rb"))
        return _local(path).open("rb", buffering=0)


def stat(path: str) -> Stamp:
    """Say what the store knows of a source, for comparing before and after reading.

    Raises:     SourceUnavailable: it is not there, or cannot be read at the moment.
    """
    with _foreign(path):
        if is_url(path):
            files, name = _filesystem(path)
            files.invalidate_cache()
            info = files.info(name)
            return Stamp(int(info["size"]), " ".join(f"{key}={info[key]}" for key in _HINTS if info.get(key) is not None))
        status = _local(path).stat()
        return Stamp(status.st_size, f"mtime_ns={status.st_mtime_ns} inode={status.st_ino}")


def identify(path: str) -> Identity:
    """Work out a source's identity: its size, and XXH3-128 of its bytes or, beyond 64 MiB, of five samples.

    Raises:     SourceUnavailable: it cannot be read. SourceChanged: it became shorter meanwhile.
    Guarantee:  reads at most 64 MiB. The same bytes are the same source under any path, time and store.
    Source:     DESIGN 1.
    """
    with open_source(path) as fileobj:
        return identify_open(fileobj, path)


def identify_open(fileobj: BinaryIO, path: str) -> Identity:
    """Work out the identity of an open source; its position is then anywhere. path is for messages."""
    with _foreign(path):
        size = fileobj.seek(0, os.SEEK_END)
        if size <= WHOLE_BYTES:
            spans = [(start, min(SAMPLE_BYTES, size - start)) for start in range(0, size, SAMPLE_BYTES)]
        else:
            starts = (0, size - SAMPLE_BYTES, size // 4, size // 2, size * 3 // 4)  # head, tail, 1/4, 1/2, 3/4
            spans = [(start, SAMPLE_BYTES) for start in starts]
        digest = xxhash.xxh3_128()
        for start, n_bytes in spans:
            fileobj.seek(start)
            while n_bytes:
                data = fileobj.read(n_bytes)
                if not data:
                    raise SourceChanged(f"{path}: it ended before its size of {size} bytes; it is being changed")
                digest.update(data)
                n_bytes -= len(data)
        return Identity(size, digest.digest())


def estimate_lines(path: str) -> int:
    """Guess a source's number of lines from its first 4 MiB decompressed and its stored size.

    Raises:     SourceUnavailable: it cannot be read.
    Guarantee:  exact for what is smaller than that. A damaged head counts as far as it can be read.
    """
    n_lines, size, last = 0, stat(path).size_bytes, LF
    with open_source(path) as fileobj, _foreign(path):
        archive = open_archive(fileobj)
        try:
            for block in archive:
                n_lines += block.count(LF)
                last = block[-1:]
                if archive.raw_offset >= ESTIMATE_BYTES:
                    return max(1, n_lines * size // max(1, archive.stored_offset))
        except SourceDamaged:
            return n_lines  # what is whole; the splitter locates the damage and tells
    return n_lines + (last != LF)


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    import fsspec.core  # type: ignore[import-untyped]  # no types; only for URLs: the splitting process starts faster without

    files, path = fsspec.core.url_to_fs(url)
    return files, str(path)


@contextmanager
def _foreign(path: str) -> Iterator[None]:
    """Translate what a store raises."""
    try:
        yield
    except FileNotFoundError as exc:
        raise SourceUnavailable(f"{path}: no such file on host {socket.gethostname()}") from exc
    except OSError as exc:
        raise SourceUnavailable(f"{path}: cannot be read on host {socket.gethostname()}: {exc}") from exc
    except ImportError as exc:
        raise MissingSetting(f"{path}: {exc}") from exc
    except ValueError as exc:
        if is_url(path):
            raise MissingSetting(f"{path}: {exc}") from exc  # fsspec's answer to a protocol it does not know
        raise
