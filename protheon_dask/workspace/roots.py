"""What clients of other hosts may name: what lies below source_roots, after symlinks and ``..``, and nothing else."""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from protheon_dask.errors import ConfigError, NotAllowed
from protheon_dask.workspace import source
from protheon_dask.workspace.url import is_url, shown

SETTING: Final = "source_roots"
# On POSIX the separator is a colon, which URLs have too: it separates only before something absolute.
_BETWEEN: Final = re.compile(r":(?=/(?!/)|~|[A-Za-z][A-Za-z0-9+.-]*://|$)") if os.pathsep == ":" else re.compile(re.escape(os.pathsep))
_ARCHIVES: Final = ("zip", "tar")
"""Outer parts of a chain that read what its inner part names, and nothing else: others may be told of any other place."""


class SourceRoots:
    """The directories and URL prefixes of the setting. Immutable, thread-safe."""

    def __init__(self, setting: str) -> None:
        """Raises ConfigError: an entry is neither absolute nor a URL."""
        entries = [entry for entry in _BETWEEN.split(setting) if entry]
        if odd := [entry for entry in entries if not (is_url(entry) or Path(entry).expanduser().is_absolute())]:
            raise ConfigError(
                f"{SETTING}: {odd[0]!r} is neither an absolute directory nor a URL; {os.pathsep!r} stands between two of them"
            )
        self._urls = tuple(entry.rstrip("/") for entry in entries if is_url(entry))
        self._directories = tuple(source.local(entry) for entry in entries if not is_url(entry))

    def resolve(self, paths: Sequence[str]) -> list[str]:
        """As source.resolve(), for a client of another host.

        Raises:    NotAllowed: a path, or something that it means, lies elsewhere; as source.resolve().
        Guarantee: of what lies elsewhere nothing is told, not even whether it is there.
        """
        self._check(paths, paths)
        found = source.resolve(paths)
        self._check(found, paths)
        return found

    def _check(self, names: Iterable[str], given: Sequence[str]) -> None:
        for name in names:
            if not (self._has_url(name) if is_url(name) else self._has_local(name)):
                told = shown(name) if name in given else ", ".join(map(shown, given))
                raise NotAllowed(
                    f"{told}: files are read on the master's host, {socket.gethostname()}, and clients of other hosts may load only what "
                    f"lies below {SETTING} there. {SETTING} is {self._told()}: add the directory or the URL's beginning there, by "
                    "PROTHEON_SOURCE_ROOTS or the settings file (`protheon config` says where it is), and start the master again; "
                    "or submit from that host"
                )

    def _has_local(self, path: str) -> bool:
        try:
            place = source.local(path)
            parts = place.parts
            fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts))
            real = {Path(*parts[:fixed]).resolve(), place.resolve()}  # as a glob, and as a name with such characters in it
        except (OSError, RuntimeError, ValueError):  # links in a circle, a home that nobody has, a NUL: nowhere
            return False
        roots = [root.resolve() for root in self._directories]  # now: they may be links, and mounted later
        return all(any(name.is_relative_to(root) for root in roots) for name in real)

    def _has_url(self, url: str) -> bool:
        """A chain has its inner part below a root. What a server or a store might read as ``..`` is nowhere."""
        *outer, inner = url.split("::")
        if outer and not all(urlsplit(part).scheme in _ARCHIVES or part in _ARCHIVES for part in outer):
            return False
        if outer and not is_url(inner):
            return self._has_local(inner)
        plain = unquote(unquote(inner))
        if "\\" in plain or ".." in re.split(r"[/?#;]", plain):
            return False
        return any(inner == root or inner.startswith(f"{root}/") for root in self._urls)

    def _told(self) -> str:
        return os.pathsep.join([*map(str, self._directories), *map(shown, self._urls)]) or "empty"
