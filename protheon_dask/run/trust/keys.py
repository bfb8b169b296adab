"""The cluster's key: signs pipelines that travel by value, kept in a file that only its owner reads."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from filelock import FileLock

from protheon_dask.errors import MissingSetting
from protheon_dask.run.trust.owner_files import make_home, replace_file

KEY_BYTES: Final = 32
KEY_FILE: Final = "cluster.key"


def read_key(path: str | Path) -> bytes:
    """The key in this file. Raises MissingSetting: there is none, or not all of it. The message shows nothing of it."""
    try:
        key = bytes.fromhex(Path(path).read_text().strip())
    except OSError as exc:
        raise MissingSetting(f"the cluster's key cannot be read from {path}: {exc.strerror}") from exc
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:  # by an empty one anybody could sign
        raise MissingSetting(f"the cluster's key in {path} is damaged: put it back from a copy, or remove it and start the master again")
    return key


def make_key(home: Path, name: str = KEY_FILE) -> Path:
    """A key's file below home, made if it is not there, or empty. Two callers at once get the same key.

    Guarantee: atomic. An empty file signed nothing: it is left by a disk that was full.
    """
    path = home / name
    if _is_there(path):
        return path
    make_home(home)
    with FileLock(home / f"{name}.lock", mode=0o600):
        if not _is_there(path):
            replace_file(path, secrets.token_hex(KEY_BYTES).encode())
    return path


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
