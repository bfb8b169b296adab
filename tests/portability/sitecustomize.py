"""Put on PYTHONPATH: every process below runs as where these modules of POSIX do not exist. See test_portability.py.

Let through are the parts of libraries that only run on this system, as psutil's for Linux: elsewhere they have others.
PROTHEON_TEST_BLOCKED names a file that gets a line a process, so that a test sees that the block was in force there.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

POSIX_ONLY = frozenset({"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline"})
PARTS_FOR_THIS_SYSTEM = (
    "psutil._pslinux",
    "psutil._psposix",
    "psutil._psosx",
    "filelock._unix",
    "locket",
    "distributed.cli.dask_scheduler",
)

really_import = builtins.__import__
allowed: list[str] = []  # what one of these parts is importing just now


def import_as_elsewhere(name: str, globals: Mapping[str, Any] | None = None, *arguments: Any, **named: Any) -> ModuleType:
    """Be the import statement: it knows who imports, also when the module is loaded already."""
    if name.partition(".")[0] not in POSIX_ONLY:
        return really_import(name, globals, *arguments, **named)
    if (globals or {}).get("__name__") not in PARTS_FOR_THIS_SYSTEM:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    allowed.append(name)
    try:
        return really_import(name, globals, *arguments, **named)
    finally:
        allowed.remove(name)


class Blocked:
    """A finder that comes first and has none of them: for importlib.import_module and its like."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in POSIX_ONLY and name not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


for known in POSIX_ONLY & set(sys.modules):
    del sys.modules[known]  # the start of the interpreter needed it
builtins.__import__ = import_as_elsewhere  # type: ignore[assignment]  # its types are those of the typeshed's stub, which are narrower
sys.meta_path.insert(0, Blocked())  # type: ignore[arg-type]  # a finder needs no more than find_spec
if log := os.environ.get("PROTHEON_TEST_BLOCKED"):
    with open(log, "a", encoding="utf-8") as told:  # noqa: PTH123  # without pathlib: this runs before everything else
        told.write(" ".join(sys.orig_argv) + "\n")
