"""Which hosts were removed, as a host that is not the master knows it: told by the master, asked by the processes of this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from protheon_dask.broker.tls import TlsFiles, join_no_of
from protheon_dask.errors import ConfigError
from protheon_dask.run.trust.owner_files import replace_file

REMOVED_FILE: Final = "removed.json"
"""Beside the host's certificate."""


def note_removed(tls: TlsFiles, hosts: Mapping[str, int]) -> bool:
    """Write down whom the master trusts no more; says whether that is news. One process of a host calls it.

    hosts:     by name: from which of its joinings on a host is trusted. One that was removed has not had it yet.
    Guarantee: atomic; nothing is written while nothing changed.
    """
    path = tls.directory / REMOVED_FILE
    told = msgspec.json.encode(dict(sorted(hosts.items())))
    try:
        if path.read_bytes() == told:
            return False
    except FileNotFoundError:
        if told == b"{}":
            return False
    replace_file(path, told)
    return True


class Noted:
    """Asks that note, and reads it anew only when it was replaced."""

    def __init__(self, tls: TlsFiles) -> None:
        self._path = tls.directory / REMOVED_FILE
        self._stamp: tuple[int, int] | None = None
        self._hosts: Mapping[str, int] = {}

    def is_removed(self, host: str, serial_no: int) -> bool:
        """Tell whether this certificate of the host is of a joining that the note says is over.

        Raises ConfigError: the note cannot be read; trust nobody then.
        """
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                self._hosts, self._stamp = msgspec.json.decode(self._path.read_bytes(), type=dict[str, int]), stamp
        except FileNotFoundError:  # nobody was
            self._hosts, self._stamp = {}, None
        except (OSError, msgspec.DecodeError) as exc:
            raise ConfigError(f"{self._path} cannot be read: {exc}; remove it, it is written anew") from exc
        return join_no_of(serial_no) < self._hosts.get(host, 0)
