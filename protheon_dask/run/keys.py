"""The cluster's key: signs pipelines that travel by value, kept in a file that only its owner reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from protheon_dask.errors import MissingSetting

KEY_BYTES = 32
KEY_FILE = "cluster.key"


def read_key(path: str | Path) -> bytes:
    """The key in this file. Raises MissingSetting."""
    try:
        return bytes.fromhex(Path(path).read_text().strip())
    except (OSError, ValueError) as exc:
        raise MissingSetting(f"the cluster's key cannot be read from {path}: {exc}") from exc


def make_key(home: Path, name: str = KEY_FILE) -> Path:
    """A key's file below home, made if it is not there. Two callers at once get the same key."""
    path = home / name
    home.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES))
    return path
