"""Chunks that no run loads, kept for those who read them: what is there, how much room it has, and until when it stays.

A pin is a directory of chunk files beside a log of what was cut. It is a cache: the ledger knows nothing of it, and what is lost is
cut again. The moment until which it stays is the time of modification of a file, so that a broker that was killed leaves nothing
behind for ever, and its successor keeps what somebody still reads.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from protheon_dask.errors import ConfigError, NotFound, WorkspaceFull
from protheon_dask.model import ChunkManifest, Identity
from protheon_dask.words import size
from protheon_dask.workspace.chunkfile import OWNER_DIR, OWNER_FILE, chunk_path

PINS: Final = "pins"
"""The directory of pins in a workspace: one below it for each ledger, as its chunk files have."""
GRACE_S: Final = 300.0
"""How long a pin that nobody holds stays after its last read: results that are being computed outlive the list that they came from."""
UNREAD_S: Final = 60.0
"""A pin that nobody holds and that was not read for so long makes room for another."""
_NOTE_S: Final = 60.0
"""Reads prolong a pin this seldom: each time is written to disk."""
_LOG, _UNTIL = "log.jsonl", "until"
_PIN_ID = re.compile(r"[0-9a-f]{32}")


class PinnedSource(msgspec.Struct, frozen=True, tag="source"):
    """A source of a pin: what it was when it was cut, and how."""

    path: str  # as people may see it
    identity: Identity
    chunk_lines: int


class _Cut(msgspec.Struct, frozen=True, tag="cut"):
    source_no: int  # from 1
    manifest: ChunkManifest  # of a chunk that the log has already: it was cut again


class _Notice(msgspec.Struct, frozen=True, tag="notice"):
    source_no: int
    told: str


class _Ended(msgspec.Struct, frozen=True, tag="ended"):
    source_no: int


class _Forget(msgspec.Struct, frozen=True, tag="forget"):
    """This source and those after it are cut anew: the paths mean other sources now."""

    source_no: int


_RECORDS: Final = msgspec.json.Decoder(PinnedSource | _Cut | _Notice | _Ended | _Forget)
_Record = PinnedSource | _Cut | _Notice | _Ended | _Forget


@dataclass(slots=True)
class Part:
    """What a pin has of one of its sources."""

    source: PinnedSource
    readable: str  # its path as it can be opened: with a password, where this process was told it
    manifests: list[ChunkManifest] = field(default_factory=list)  # of lines beyond max_line_bytes too, which have no file
    notices: list[str] = field(default_factory=list)
    is_ended: bool = False  # no more of it is to be cut


@dataclass(slots=True)
class Pin:
    """One pin. Of the store: changed under its lock."""

    pin_id: str
    directory: Path
    until_s: float  # monotonic
    read_at_s: float
    is_held: bool = True  # False: nobody renews it; it makes room when it is not read
    is_cut: bool = False  # somebody cuts its sources now: it stays meanwhile
    parts: list[Part] = field(default_factory=list)
    files: list[tuple[int, int]] = field(default_factory=list)  # source and chunk in it, both from 1, of each chunk that has a file
    stored_bytes: int = 0

    def put(self, source_no: int, manifest: ChunkManifest) -> ChunkManifest | None:
        """Add a chunk, or another form of one that is there; return the form that it had."""
        manifests, old = self.parts[source_no - 1].manifests, None
        if manifest.chunk_no > len(manifests):
            manifests.append(manifest)
            if not manifest.oversized:
                self.files.append((source_no, manifest.chunk_no))
        else:
            old, manifests[manifest.chunk_no - 1] = manifests[manifest.chunk_no - 1], manifest
        self.stored_bytes += manifest.stored_bytes - (old.stored_bytes if old else 0)
        return old

    def forget(self, source_no: int) -> None:
        """This source and those after it are not what they were."""
        self.stored_bytes -= sum(manifest.stored_bytes for part in self.parts[source_no - 1 :] for manifest in part.manifests)
        del self.parts[source_no - 1 :]
        self.files = [place for place in self.files if place[0] < source_no]


@dataclass(frozen=True, slots=True)
class Located:
    """Where a pinned chunk is, or was."""

    pin_id: str
    source_no: int
    directory: Path  # of the pin
    manifest: ChunkManifest

    @property
    def path(self) -> Path:
        return chunk_path(self.directory, self.source_no, self.manifest.first_line, self.manifest.generation)


class PinStore:
    """All pins of one ledger's master, in a directory of their own, with a quota of their own.

    Units:      now_s is the monotonic clock's: while a machine sleeps nobody can renew, and nothing runs out.
    Guarantee:  thread-safe. Readers may hold a file open that is deleted. Only the broker that leads owns a store.
    """

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        self.directory, self.quota_bytes = directory, quota_bytes
        for made in (directory.parent, directory):
            made.mkdir(mode=OWNER_DIR, parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._pins: dict[str, Pin] = {}

    @property
    def stored_bytes(self) -> int:
        with self._lock:
            return sum(pin.stored_bytes for pin in self._pins.values())

    def adopt(self, now_s: float) -> None:
        """Take over what a broker before this one left: pins that have not run out. All else is deleted. Once, at start."""
        for directory in self.directory.glob("*/"):
            pin = _read(directory, now_s)
            if pin is None:
                shutil.rmtree(directory, ignore_errors=True)
            else:
                self._pins[pin.pin_id] = pin

    def begin(self, pin_id: str, now_s: float) -> Pin:
        """The pin of this name, new or as it was left, for one who cuts it: it stays until end().

        Raises: ConfigError: the name is none, or somebody else is cutting it.
        """
        if not _PIN_ID.fullmatch(pin_id):
            raise ConfigError(f"{pin_id!r} does not name a pin: choose 32 hexadecimal digits, such as those of a new uuid")
        with self._lock:
            pin = self._pins.get(pin_id)
            if pin is None:
                directory = self.directory / pin_id
                directory.mkdir(mode=OWNER_DIR, exist_ok=True)
                pin = self._pins[pin_id] = Pin(pin_id, directory, now_s + GRACE_S, now_s)
            elif pin.is_cut:
                raise ConfigError(f"pin {pin_id} is being cut for another call: ask again when that has ended")
            pin.is_cut, pin.is_held = True, True
            self._keep(pin, now_s + GRACE_S, now_s)
            return pin

    def end(self, pin: Pin, ttl_s: float, now_s: float, *, is_whole: bool) -> None:
        """Nobody cuts it any more. Where it is not whole, whoever asked may ask again within GRACE_S."""
        with self._lock:
            pin.is_cut, pin.is_held, pin.read_at_s = False, is_whole, now_s
            self._keep(pin, now_s + (ttl_s if is_whole else GRACE_S), now_s)

    def source(self, pin: Pin, source_no: int, path: str, readable: str, identity: Identity, chunk_lines: Callable[[], int]) -> Part:
        """What the pin has of this source; nothing, if it had another one in its place.

        chunk_lines: asked for a source that is new.
        """
        with self._lock:
            if source_no <= len(pin.parts):
                part = pin.parts[source_no - 1]
                if (part.source.path, part.source.identity) == (path, identity):
                    part.readable = readable
                    return part
                pin.forget(source_no)
                self._write(pin, _Forget(source_no))
                for directory in pin.directory.glob("*/"):
                    if int(directory.name) >= source_no:
                        shutil.rmtree(directory)
        source = PinnedSource(path, identity, chunk_lines())
        with self._lock:
            part = Part(source, readable)
            pin.parts.append(part)
            self._write(pin, source)
            return part

    def add(self, pin: Pin, source_no: int, manifest: ChunkManifest) -> None:
        """A chunk was cut, for the first time or again; an older form of it is deleted."""
        with self._lock:
            old = pin.put(source_no, manifest)
            self._write(pin, _Cut(source_no, manifest))
        if old is not None and old.generation != manifest.generation:
            Located(pin.pin_id, source_no, pin.directory, old).path.unlink(missing_ok=True)

    def add_notice(self, pin: Pin, source_no: int, told: str) -> None:
        with self._lock:
            pin.parts[source_no - 1].notices.append(told)
            self._write(pin, _Notice(source_no, told))

    def end_source(self, pin: Pin, source_no: int) -> None:
        with self._lock:
            pin.parts[source_no - 1].is_ended = True
            self._write(pin, _Ended(source_no))

    def check_room(self, pin: Pin, now_s: float) -> None:
        """Raise WorkspaceFull if the pin may not grow; pins that nobody holds or reads make room first."""
        with self._lock:
            while (used_bytes := sum(other.stored_bytes for other in self._pins.values())) >= self.quota_bytes:
                idle = [
                    other
                    for other in self._pins.values()
                    if not (other.is_held or other.is_cut) and now_s - other.read_at_s >= UNREAD_S and other.stored_bytes
                ]
                if not idle:
                    own_bytes = pin.stored_bytes
                    raise WorkspaceFull(
                        f"pinned chunks may take {size(self.quota_bytes)} of the workspace; these took {size(own_bytes)} when that was "
                        f"used up, other lists have {size(used_bytes - own_bytes)}: ask for less by limit= or fewer paths, close() lists "
                        "that are not needed any more, or give more by the setting pinned_quota_bytes"
                    )
                self.delete(min(idle, key=lambda other: other.read_at_s).pin_id)

    def locate(self, pin_id: str, chunk_no: int, now_s: float) -> Located:
        """Where a chunk's file is or was; the pin stays for GRACE_S at least, since it is read. Raises NotFound."""
        with self._lock:
            pin = self._found(pin_id)
            pin.read_at_s = now_s
            if pin.until_s < now_s + GRACE_S:
                self._keep(pin, now_s + GRACE_S + _NOTE_S, now_s)
            if not 1 <= chunk_no <= len(pin.files):
                raise NotFound(f"pin {pin_id} has no chunk {chunk_no}")
            source_no, number = pin.files[chunk_no - 1]
            return Located(pin_id, source_no, pin.directory, pin.parts[source_no - 1].manifests[number - 1])

    def part(self, pin_id: str, source_no: int) -> tuple[Pin, Part]:
        """Raises NotFound."""
        with self._lock:
            pin = self._found(pin_id)
            return pin, pin.parts[source_no - 1]

    def renew(self, pin_id: str, ttl_s: float, now_s: float) -> None:
        """Keep it for ttl_s from now; 0: it is let go, and stays for GRACE_S after its last read. Raises NotFound."""
        with self._lock:
            pin = self._found(pin_id)
            pin.is_held = ttl_s > 0
            self._keep(pin, now_s + (ttl_s or GRACE_S), now_s)

    def delete(self, pin_id: str) -> None:
        """Delete a pin and its files; idempotent. Not while it is cut."""
        with self._lock:
            pin = self._pins.pop(pin_id, None)
        if pin is not None:
            (pin.directory / _UNTIL).unlink(missing_ok=True)  # first: without it, the rest is garbage to the next broker
            shutil.rmtree(pin.directory, ignore_errors=True)  # what cannot be deleted now is at the next start

    def sweep(self, now_s: float) -> list[str]:
        """Delete what has run out; return which those were."""
        with self._lock:
            over = [pin.pin_id for pin in self._pins.values() if pin.until_s <= now_s and not pin.is_cut]
        for pin_id in over:
            self.delete(pin_id)
        return over

    def pin_ids(self) -> list[str]:
        with self._lock:
            return list(self._pins)

    def _found(self, pin_id: str) -> Pin:
        pin = self._pins.get(pin_id)
        if pin is None:
            raise NotFound(
                f"the chunks of pin {pin_id} are not kept any more: their list was closed, or nobody renewed it: make a new one by "
                "cluster.chunks(), and hold it until what reads it has ended"
            )
        return pin

    def _keep(self, pin: Pin, until_s: float, now_s: float) -> None:
        """Let it stay until then, and write that down."""
        pin.until_s = until_s
        until = time.time() + until_s - now_s
        path = pin.directory / _UNTIL
        path.touch(mode=OWNER_FILE)
        os.utime(path, (until, until))

    def _write(self, pin: Pin, record: _Record) -> None:
        with os.fdopen(os.open(pin.directory / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, OWNER_FILE), "ab") as log:
            log.write(msgspec.json.encode(record) + b"\n")


def _read(directory: Path, now_s: float) -> Pin | None:
    """A pin as its directory has it; None: it has run out, or is none."""
    try:
        left_s = (directory / _UNTIL).stat().st_mtime - time.time()
        log = (directory / _LOG).read_bytes()
    except OSError:
        return None
    if left_s <= 0 or not _PIN_ID.fullmatch(directory.name):
        return None
    pin = Pin(directory.name, directory, now_s + left_s, now_s, is_held=left_s > GRACE_S)
    whole = log[: log.rfind(b"\n") + 1]
    if whole != log:  # its writer was killed in the midst of a line
        os.truncate(directory / _LOG, len(whole))
    try:
        _replay(pin, whole.splitlines())
    except (msgspec.DecodeError, IndexError):  # of another version: it is a cache
        return None
    return pin


def _replay(pin: Pin, lines: Iterable[bytes]) -> None:
    for line in lines:
        match _RECORDS.decode(line):
            case PinnedSource() as source:
                pin.parts.append(Part(source, source.path))
            case _Cut(source_no=source_no, manifest=manifest):
                pin.put(source_no, manifest)
            case _Notice(source_no=source_no, told=told):
                pin.parts[source_no - 1].notices.append(told)
            case _Ended(source_no=source_no):
                pin.parts[source_no - 1].is_ended = True
            case _Forget(source_no=source_no):
                pin.forget(source_no)
