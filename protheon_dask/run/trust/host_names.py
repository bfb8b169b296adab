"""Names that a host can have: in its certificate, in the ledger, and wherever it is told of. Pure."""

from __future__ import annotations

import re
from typing import Final

from protheon_dask.errors import ConfigError

HOST_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
"""A label of the DNS: it names rows, files and certificates, and can be no path and no option."""


def check_host_name(name: str) -> str:
    """The name itself. Raises ConfigError: it can be no host's."""
    if HOST_NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{name[:80]!r} cannot be a host's name: 1 to 63 of a to z, 0 to 9 and '-', not first or last; name it with --name"
        )
    return name


def host_name_of(hostname: str) -> str:
    """A host's name from what the machine calls itself: ``Anns-MacBook.local`` is ``anns-macbook``. Raises ConfigError: nothing is left."""
    return check_host_name(re.sub(r"[^a-z0-9]+", "-", hostname.split(".")[0].lower())[:63].strip("-"))
