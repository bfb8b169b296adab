"""A source behind http or https as a file that seeks, with what the standard library has.

One response is read as a stream; seeking elsewhere asks for a range. A server that knows no ranges is read from its beginning
each time: slow, but right, and with no copy on disk.
"""

from __future__ import annotations

import base64
import http.client
import io
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import cast
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from protheon_dask.errors import ConfigError, SourceChanged

TIMEOUT_S = 60.0
"""A server that sends nothing for this long does not answer."""
SKIP_BYTES = 1 << 20
"""A seek forward of at most this is read through: a new request costs more."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_NOT_IN_URLS = re.compile(r"[^!-~]")  # spaces and letters beyond ASCII, as browsers show them


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says of a resource, None where it says nothing; what is unequal belongs to other bytes."""

    size_bytes: int | None
    etag: str | None
    last_modified: str | None

    @property
    def told(self) -> tuple[int | str | None, ...]:
        return (self.size_bytes, self.etag, self.last_modified)


class WebFile(io.RawIOBase):
    """A resource of a web server, open for reading and seeking. Not thread-safe.

    Raises:     OSError (urllib.error.HTTPError has the status), also where the server ends a response early; http.client.HTTPException.
                SourceChanged: a later response is of another version. ConfigError: it is no URL.
    Guarantee:  a connection that breaks is made anew, once at each offset. User and password of the URL
                go to its own host alone, never along a redirection. Memory is constant.
    """

    def __init__(self, url: str, shown: str) -> None:
        """Ask for the resource. shown: the URL as messages name it."""
        parts = _parsed(url, shown)
        self._url, self._shown = _as_sent(parts), shown
        self._credentials = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._credentials = "Basic " + base64.b64encode(pair.encode()).decode()
        self._response: http.client.HTTPResponse | None = None
        self._offset = 0  # of the next byte that read() gives
        self._response_offset = 0  # of the next byte of the response
        self._knows_ranges = True
        self._broken_at = -1  # where the connection broke last
        self.version: Version | None = None
        self._ask(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to an offset; nothing is asked before the next read. From the end: reads all where the server tells no size."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset}.get(whence)
        self._offset = max(0, (self._size() if base is None else base) + offset)
        return self._offset

    def read(self, size: int = -1, /) -> bytes:
        """Read up to size bytes, less if less has come; none: the end. Without a size, all that is left."""
        parts = []
        while data := self._read_at(self._offset, SKIP_BYTES if size < 0 else size):
            parts.append(data)
            self._offset += len(data)
            if size >= 0:
                break
        return b"".join(parts)

    def close(self) -> None:
        self._drop()
        super().close()

    def _size(self) -> int:
        size = self.size_bytes
        if size is None:
            size = self._offset
            while data := self._read_at(size, SKIP_BYTES):
                size += len(data)
        return size

    @property
    def size_bytes(self) -> int | None:
        """What the server says of the size."""
        return self.version.size_bytes if self.version is not None else None

    def _read_at(self, offset: int, n_bytes: int) -> bytes:
        size = self.size_bytes
        if not n_bytes or (size is not None and offset >= size):
            return b""
        while True:
            try:
                self._go_to(offset)
                data = self._take(n_bytes if size is None else min(n_bytes, size - offset))
                if data or size is None:
                    return data
                raise ConnectionResetError(f"the server ended its answer at byte {offset:,} of {size:,}")
            except (OSError, http.client.HTTPException) as exc:
                self._drop()
                if isinstance(exc, urllib.error.HTTPError) or self._broken_at == offset:
                    raise
                self._broken_at = offset  # once more

    def _go_to(self, offset: int) -> None:
        """Have a response whose next byte is that of offset."""
        gap = offset - self._response_offset
        if self._response is None or gap < 0 or (gap > SKIP_BYTES and self._knows_ranges):
            self._ask(offset)
        while (gap := offset - self._response_offset) > 0:
            if not self._take(min(gap, SKIP_BYTES)):
                raise ConnectionResetError(f"the server ended its answer at byte {self._response_offset:,}")

    def _take(self, n_bytes: int) -> bytes:
        assert self._response is not None, "_go_to() comes first"
        data = self._response.read1(n_bytes)
        self._response_offset += len(data)
        return data

    def _ask(self, offset: int) -> None:
        self._drop()
        # identity: bytes and offsets are those of the resource as it is stored
        request = urllib.request.Request(self._url, headers={"Accept-Encoding": "identity", "User-Agent": "protheon"})
        if self._credentials:
            request.add_unredirected_header("Authorization", self._credentials)
        if offset and self._knows_ranges:
            request.add_header("Range", f"bytes={offset}-")
        try:
            response = cast("http.client.HTTPResponse", urllib.request.urlopen(request, timeout=TIMEOUT_S))
        except urllib.error.HTTPError as exc:
            exc.close()
            raise
        self._response, self._response_offset = response, 0
        size = int(text) if (text := response.headers.get("Content-Length", "")).isdecimal() else None
        if response.status == http.client.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != offset:
                raise ConnectionResetError(f"the server answered another range than the one from byte {offset:,} on")
            self._response_offset, size = offset, None if found[2] == "*" else int(found[2])
        elif offset:
            self._knows_ranges = False  # it sends all from the beginning
        version = Version(size, response.headers.get("ETag"), response.headers.get("Last-Modified"))
        if self.version is None:
            self.version = version
        elif any(then != now for then, now in zip(self.version.told, version.told, strict=True) if None not in (then, now)):
            raise SourceChanged(f"{self._shown}: it changed while it was read")

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def _parsed(url: str, shown: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.hostname and (parts.port is None or parts.port):
            parts.hostname.encode("idna")
            return parts
    except ValueError:
        pass  # its words would show a piece of the password
    raise ConfigError(f"{shown}: not the URL of a web server: check host and port, and percent-encode what is special in the password")


def _as_sent(parts: SplitResult) -> str:
    """The URL without user and password, and with all that HTTP does not bear encoded."""
    host = parts.netloc.rpartition("@")[2]
    host = host if host.isascii() else host.encode("idna").decode()
    path, query = (_NOT_IN_URLS.sub(lambda found: quote(found[0]), part) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path, query, ""))
