"""Does a handler mean a task function, as far as this host can tell? Asked in a process of its own, which imports the author's module.

An import may fail in any way, hang or end its process, and a module that is imported stays as it was: the broker does it in a child
that lives for one question.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.find import import_named, show_current_directory
from protheon_dask.pipelines.function import split_handler, task_of

IMPORT_S = 20.0
"""How long an import may take; a handler whose module takes longer is left to the workers to judge."""


class HandlerCheck:
    """Looks at handlers, and remembers the good ones for as long as their module's file stays as it is. Thread-safe."""

    def __init__(self) -> None:
        self._good: dict[str, object] = {}  # handler -> its module's file, as it was
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by handler: those who come together ask once

    def check(self, handler: str) -> None:
        """Raise ConfigError if the handler is no module:name, or names what is no task of a module that can be imported here.

        Guarantee: a module that is not here, or cannot be imported here, passes: the workers know.
        """
        module_name, _ = split_handler(handler)
        if not (places := _places(module_name)):
            return
        with self._asking[handler]:
            stamp = _stamp(module_name, places)
            if stamp is not None and self._good.get(handler) == stamp:
                return
            if (refusal := _ask(handler)) is not None:
                raise ConfigError(refusal)
            self._good[handler] = stamp


def _places(module_name: str) -> list[Path]:
    """Where the first part of the module's name lies on this host; empty: it is not here. Nothing is imported."""
    show_current_directory()
    importlib.invalidate_caches()  # it may have come a moment ago
    try:
        spec = importlib.util.find_spec(module_name.partition(".")[0])
    except (ImportError, ValueError):  # a module without a specification
        return []
    if spec is None:
        return []
    return [Path(place).parent for place in spec.submodule_search_locations or [str(spec.origin)]]


def _stamp(module_name: str, places: Sequence[Path]) -> object:
    """The module's own file and its time; None: it has none, and is asked for each time."""
    for place in places:
        path = place.joinpath(*module_name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file, file.stat().st_mtime_ns
    return None


def _ask(handler: str) -> str | None:
    """The child's refusal, or None."""
    to_read, to_write = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "protheon_dask.run.find_handler", handler],
            stdin=to_read,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    finally:
        os.close(to_read)
        os.close(to_write)
    try:
        return None if done.returncode else str(json.loads(done.stdout.splitlines()[-1])["refused"] or "") or None
    except (ValueError, LookupError, TypeError):  # the module ended the process, or wrote over the answer
        return None


def main(handler: str) -> None:
    """Print as the last line what is wrong with the handler; end with the parent, whatever the import does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    refused = ""
    module_name, name = split_handler(handler)
    try:
        module = import_named(module_name)
    except ConfigError:
        pass
    else:
        try:
            task_of(module, name)
        except ConfigError as exc:
            refused = str(exc)
    print(f"\n{json.dumps({'refused': refused})}", flush=True)
    os._exit(0)  # what the module started does not keep this process


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
