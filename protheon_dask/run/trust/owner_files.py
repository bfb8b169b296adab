"""Files that only their owner reads, replaced whole: who reads one sees it as it was or as it is, also after kill -9."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from protheon_dask.errors import ConfigError, TransientError
from protheon_dask.workspace.chunkfile import OWNER_DIR, OWNER_FILE

ENTERABLE_DIR: Final = 0o711
"""Mode of home: others may pass, as root's embedded PostgreSQL does, which runs as nobody; what is in it is its owner's."""
OTHERS: Final = 0o077
"""The bits of a mode that let anybody else in."""


def make_home(home: Path) -> None:
    """Make the directory that all of an installation is below, and its parents as they come; one that is there keeps its mode."""
    home.mkdir(mode=ENTERABLE_DIR, parents=True, exist_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory of home for its owner alone, and home; one that is there keeps its mode."""
    make_home(path.parent)
    path.mkdir(mode=OWNER_DIR, exist_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Put data in the place of the file, mode 0600 from its creation on.

    Guarantee: atomic, and on disk on return. Two writers at once need a lock of their own: both write `<name>.new`.
    """
    making = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):  # of a writer that was killed
        making.unlink()
    handle = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_FILE)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    making.replace(path)
    sync_directory(path.parent)


@contextmanager
def locked(path: Path, what: str, wait_s: float) -> Iterator[None]:
    """Be the only process that changes what this file's lock is for. Raises TransientError: another one has been, for so long."""
    lock = FileLock(path, timeout=wait_s, mode=OWNER_FILE)
    try:
        lock.acquire()
    except Timeout as exc:
        raise TransientError(f"another process has been changing {what} for {wait_s:.0f} s: {path} is locked; try again") from exc
    try:
        yield
    finally:
        lock.release()


def sync_directory(path: Path) -> None:
    """What was renamed in the directory stays so after a power cut; where directories cannot be opened (Windows) nothing is done."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_owner_alone(path: Path) -> None:
    """Raise ConfigError if the file or directory belongs to another user, or others may read or change it (POSIX)."""
    if os.name == "nt":
        return
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to another user (uid {found.st_uid}): it must be yours alone; run this as that user, or chown it"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & OTHERS:
        wanted = OWNER_DIR if stat.S_ISDIR(found.st_mode) else OWNER_FILE
        raise ConfigError(f"{path} has mode {mode:04o}: others could read it or change it; look who did, then chmod {wanted:o} {path}")
