"""How many files and connections this process may have open. Many systems give 1,024 at first, and more to who asks."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any, Final

ENOUGH: Final = 1 << 16
"""More than a master of thousands of workers needs; also taken where there is no limit."""


def limit() -> int | None:
    """The limit; None: there is none, as on Windows for sockets."""
    resource = _resource()
    if resource is None:
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


def open_files() -> int:
    """The limit; ENOUGH where there is none."""
    found = limit()
    return ENOUGH if found is None else found


def raise_open_files() -> None:
    """Raise this process's limit to what the system allows."""
    resource = _resource()
    if resource is None:
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if open_files() < wanted:
        with suppress(ValueError, OSError):  # macOS has a second limit, which it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _resource() -> Any:
    try:
        return importlib.import_module("resource")
    except ImportError:
        return None
