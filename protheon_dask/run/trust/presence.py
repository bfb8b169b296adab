"""Whether a host is in its cluster, by its certificate alone: for ``protheon cluster hosts`` and ``protheon doctor``. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from protheon_dask.run.trust.authority import RETURN_FOR


class Presence(StrEnum):
    """Of a host that was admitted, and not removed."""

    IN = "in"  # its certificate is good
    AWAY = "away"  # it has ended: the host comes back by itself, by its key, as soon as `protheon worker` runs there
    GONE = "gone"  # too long ago: it joins anew, if it ever comes back


def presence(until_at: datetime, now: datetime) -> Presence:
    """By the end of the last certificate that the host was given."""
    if now < until_at:
        return Presence.IN
    return Presence.AWAY if now < back_until(until_at) else Presence.GONE


def back_until(until_at: datetime) -> datetime:
    """Until when a host whose certificate ended then comes back by itself."""
    return until_at + RETURN_FOR
