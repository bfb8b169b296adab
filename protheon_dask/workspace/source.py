"""Sources by path or URL: which there are, what they are, whether they changed, how many lines they may have."""

from __future__ import annotations

import glob
import io
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit
from zipfile import BadZipFile

import xxhash

from protheon_dask.errors import ConfigError, MissingSetting, NotFound, ProtheonError, SourceChanged, SourceDamaged, SourceUnavailable
from protheon_dask.model import Identity
from protheon_dask.workspace.archives import Format, open_archive
from protheon_dask.workspace.cut import LF
from protheon_dask.workspace.url import is_url, is_web, shown, without_secrets
from protheon_dask.workspace.web import WebFile

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]  # fsspec ships no types

WHOLE_BYTES = 64 << 20  # DESIGN 1: up to here all bytes are hashed, beyond it five samples
SAMPLE_BYTES = 1 << 20  # DESIGN 1: of each sample
ESTIMATE_BYTES = 4 << 20  # decompressed bytes looked at for an estimate: some 600 lines of 7 KB; smaller sources are counted exactly
STORE_BLOCK_BYTES = 4 << 20  # what a store is asked for at a time, and reads ahead: its own default may be 50 MiB (s3fs)
_HINTS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created", "sha", "CRC", "date_time")
"""Versions, as stores call them."""
_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Protocol -> the extra of Protheon that brings what fsspec needs for it."""
_CAUSES = 5  # how deep the error that has the status may lie; causes may also run in a circle
_NOT_FOUND = (404, 410)
_REFUSED = (400, 401, 403, 405)  # HTTP: asking again does not help
_NOT_TRUSTED = "SSLCertVerificationError"  # of ssl, which is not imported for local files: the splitting process starts faster without
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError", "ProfileNotFound")
"""Of botocore, which is not imported here; they are no OSErrors."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a store says of a source without reading it: unequal stamps mean that it may have changed."""

    size_bytes: int  # -1: it does not say
    version: str  # mtime and inode of a local file, ETag or the like of an object


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a source may hold, decompressed. is_exact: it was read to its end."""

    n_lines: int
    raw_bytes: int
    format: Format
    is_exact: bool


def resolve(paths: Sequence[str]) -> list[str]:
    """Name every source that files, directories, globs and fsspec URLs mean, each once, in the order given.

    A directory means its files, a glob the files that it matches; both sorted, hidden ones left out, without descending
    (``**`` descends). A name that exists is never read as a glob.

    Shapes:     local paths come back absolute, others as URLs.
    Raises:     NotFound: nothing is there; names the path and this host. MissingSetting: an extra for a URL is not installed.
                ConfigError: the store refuses, or it is no file. SourceUnavailable: it does not answer.
    """
    found: dict[str, None] = {}
    for path in paths:
        try:
            with _foreign(path):
                names = _resolve_url(path) if is_url(path) else _resolve_local(path)
        except NotFound as exc:
            if is_web(path) and set("*[") & set(path.partition("?")[0].partition("://")[2].partition("/")[2]):  # [ is of a host too
                raise NotFound(f"{exc}; web servers have no globs: name each file") from exc
            raise
        if not names and not is_url(path) and local(path).is_dir():
            only = "; hidden files and those of directories below are left out" if any(local(path).iterdir()) else ""
            raise NotFound(f"{path}: the directory {'has no files' if only else 'is empty'} on host {socket.gethostname()}{only}")
        if not names:
            raise NotFound(f"{shown(path)}: no such file, and no files where it points, on host {socket.gethostname()}")
        for name in names:
            if not _is_utf8(name):
                raise ConfigError(f"{name!a}: its name is no text in UTF-8, and the ledger could not keep it: rename the file")
        found.update(dict.fromkeys(names))
    return list(found)


def _is_utf8(name: str) -> bool:
    """Tell whether a name is text: a file's may be any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def local(path: str) -> Path:
    """The file that a path means which is no URL: absolute, without ``..``, its symlinks as they are."""
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - Path.absolute() keeps "..", resolve() follows links


def _resolve_local(path: str) -> list[str]:
    place = local(path)
    if place.is_dir():
        return sorted(str(entry) for entry in place.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if place.is_file():
        return [str(place)]
    if place.exists():
        raise ConfigError(
            f"{path}: a pipe, socket or device on host {socket.gethostname()}, and no file: a source is read more than once, "
            "to find its checksum and after a failure; write what comes from it into a file first"
        )
    if not glob.has_magic(str(place)):
        return []
    return sorted(match for match in glob.glob(str(place), recursive=True) if Path(match).is_file())  # noqa: PTH207 - Path.glob takes no absolute pattern


def _resolve_url(url: str) -> list[str]:
    if is_web(url):
        with WebFile(url, shown(url)):
            return [url]
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
    inner = url.partition("::")[2]  # zip://*.jsonl::reports.zip: each name is in that archive
    return sorted(files.unstrip_protocol(name) + (f"::{inner}" if inner else "") for name in names)


def open_source(path: str) -> BinaryIO:
    """Open a source for reading and seeking; the caller closes it.

    Raises:     SourceUnavailable: it cannot be read at the moment; reading and seeking raise it too. ConfigError: it is not there,
                or this user may not read it.
    """
    with _foreign(path):
        if is_web(path):
            return cast("BinaryIO", _Translated(cast("BinaryIO", WebFile(path, shown(path))), path))
        if is_url(path):
            files, name = _filesystem(path)
            return cast("BinaryIO", _Translated(files.open(name, "rb", block_size=STORE_BLOCK_BYTES), path, files))
        return local(path).open("rb", buffering=0)


class _Translated(io.RawIOBase):
    """A store's file whose errors are ours."""

    def __init__(self, fileobj: BinaryIO, path: str, owner: AbstractFileSystem | None = None) -> None:
        self._fileobj, self._path = fileobj, path
        self._owner = owner  # a zip file is closed with the last reference to its file system

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        with _foreign(self._path):
            return self._fileobj.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with _foreign(self._path):
            self._fileobj.seek(offset, whence)
            return self._fileobj.tell()

    def close(self) -> None:
        if not self.closed:
            with _foreign(self._path):
                self._fileobj.close()
        super().close()


def stat(path: str) -> Stamp:
    """Say what the store knows of a source, for comparing before and after reading.

    Raises:     as open_source.
    """
    with _foreign(path):
        if is_web(path):
            with WebFile(path, shown(path)) as web:
                return Stamp(-1 if web.size_bytes is None else web.size_bytes, str(web.version))
        if is_url(path):
            files, name = _filesystem(path)
            files.invalidate_cache()
            info = files.info(name)
            return Stamp(int(info["size"]), " ".join(f"{key}={info[key]}" for key in _HINTS if info.get(key) is not None))
        status = local(path).stat()
        return Stamp(status.st_size, f"mtime_ns={status.st_mtime_ns} inode={status.st_ino}")


def identify(path: str) -> Identity:
    """Work out a source's identity: its size, and XXH3-128 of its bytes or, beyond 64 MiB, of five samples.

    Raises:     as open_source. SourceChanged: it became shorter meanwhile.
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
            starts = list(range(0, size, SAMPLE_BYTES))
        else:
            starts = [0, size - SAMPLE_BYTES, size // 4, size // 2, size * 3 // 4]  # head, tail, 1/4, 1/2, 3/4
            # Read in ascending order: there are servers that give a file from its beginning only.
            samples = {start: _span(fileobj, path, start, SAMPLE_BYTES) for start in sorted(starts)}
            return Identity(size, xxhash.xxh3_128_digest(b"".join(samples[start] for start in starts)))
        digest = xxhash.xxh3_128()
        for start in starts:
            digest.update(_span(fileobj, path, start, min(SAMPLE_BYTES, size - start)))
        return Identity(size, digest.digest())


def _span(fileobj: BinaryIO, path: str, start: int, n_bytes: int) -> bytes:
    fileobj.seek(start)
    parts: list[bytes] = []
    while n_bytes:
        data = fileobj.read(n_bytes)
        if not data:
            raise SourceChanged(f"{shown(path)}: it ended before the size that it had; it is being changed")
        parts.append(data)
        n_bytes -= len(data)
    return b"".join(parts)


def estimate_lines(path: str, size_bytes: int) -> int:
    """Guess a source's number of lines from its first 4 MiB decompressed and its stored size.

    Raises:     as open_source.
    Guarantee:  exact for what is smaller than that. A damaged head counts as far as it can be read.
    """
    return estimate(path, size_bytes).n_lines


def estimate(path: str, size_bytes: int) -> Estimate:
    """Guess a source's lines and bytes; as estimate_lines."""
    n_lines, last = 0, LF
    with open_source(path) as fileobj, _foreign(path):
        archive = open_archive(fileobj)
        try:
            for block in archive:
                n_lines += block.count(LF)
                last = block[-1:]
                if archive.raw_offset >= ESTIMATE_BYTES:
                    stored = max(1, archive.stored_offset)
                    n_lines = max(1, n_lines * size_bytes // stored)
                    return Estimate(n_lines, archive.raw_offset * size_bytes // stored, archive.format, is_exact=False)
        except (SourceDamaged, MemoryError):
            # what is whole; the splitter locates the damage, or has the memory to itself, and tells
            return Estimate(n_lines, archive.raw_offset, archive.format, is_exact=False)
    return Estimate(n_lines + (last != LF), archive.raw_offset, archive.format, is_exact=True)


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    import fsspec.core  # type: ignore[import-untyped]  # no types; only for URLs: the splitting process starts faster without

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as exc:
        extra = _EXTRAS.get(url.partition("://")[0])
        how = f"install it with: pip install 'protheon-dask[{extra}]'" if extra else "install what fsspec needs for this protocol"
        raise MissingSetting(f"{shown(url)}: {exc}; {how}, on host {socket.gethostname()}") from exc
    except ValueError as exc:  # fsspec's answer to a protocol it does not know
        raise MissingSetting(f"{shown(url)}: {without_secrets(str(exc), url)}") from exc
    return files, str(path)


@contextmanager
def _foreign(path: str) -> Iterator[None]:
    """Translate what a store raises."""
    try:
        yield
    except ProtheonError:
        raise
    except OSError as exc:
        raise _translated(path, exc) from exc
    except Exception as exc:  # stores raise what they like; not for local files, where it is a defect of ours
        if not is_url(path):
            raise
        raise _translated(path, exc) from exc


def _translated(path: str, exc: Exception) -> ProtheonError:
    """Say who must act: the operator where asking again cannot help, else the clock."""
    name, host, told = shown(path), socket.gethostname(), without_secrets(" ".join(str(exc).split()), path) or type(exc).__name__
    status = _http_status(exc)
    if isinstance(exc, FileNotFoundError) or status in _NOT_FOUND:
        why = f": {told}" if is_url(path) else ""
        return NotFound(f"{name}: no such file on host {host}{why}")
    if isinstance(exc, PermissionError) or status in _REFUSED:
        return ConfigError(f"{name}: may not be read by this user on host {host}: {told}")
    if type(getattr(exc, "reason", None)).__name__ == _NOT_TRUSTED:
        return ConfigError(f"{name}: its certificate is not trusted on host {host}: {told}; give its CA as SSL_CERT_FILE to the master")
    if type(exc).__name__ in _NO_CREDENTIALS:
        return ConfigError(f"{name}: no credentials on host {host}: {told}; set them in the environment of the master")
    if isinstance(exc, BadZipFile):
        return ConfigError(f"{name}: not a zip file, or a damaged one: {told}")
    return SourceUnavailable(f"{name}: cannot be read on host {host}: {told}")


def _http_status(exc: BaseException | None) -> int | None:
    """The status behind an error of a store: urllib's, aiohttp's or botocore's, be it the cause of another."""
    for _ in range(_CAUSES):
        answer = getattr(exc, "response", None)
        metadata = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
        for status in (getattr(exc, "status", None), getattr(exc, "code", None), metadata.get("HTTPStatusCode")):
            if isinstance(status, int) and not isinstance(status, bool):
                return status
        exc = exc and exc.__cause__
    return None
