"""Numbers and times in sentences, the same on every face. Pure."""

from __future__ import annotations

from datetime import datetime

_SINCE = "since "


def counted(n: int, one: str, many: str | None = None) -> str:
    """1, ``reject`` -> ``1 reject``; 2 -> ``2 rejects``; 2, ``line is``, ``lines are`` -> ``2 lines are``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def since(at: datetime, what: str) -> str:
    """``since 10:02:11 UTC: what``: how every face says what is waited for. at is in UTC."""
    return f"{_SINCE}{at:%H:%M:%S} UTC: {what}"


def says_since(told: str) -> bool:
    """Does this say already since when?"""
    return told.startswith(_SINCE)
