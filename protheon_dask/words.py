"""Numbers and times as people read them, the same on every face. Pure: same value, same text, in every locale."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

_SINCE = "since "
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of what follows, also beyond the text that they are in."""


def counted(n: int, one: str, many: str | None = None) -> str:
    """1, ``reject`` -> ``1 reject``; 2 -> ``2 rejects``; 2, ``line is``, ``lines are`` -> ``2 lines are``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def count(n: int) -> str:
    """20000 -> ``20,000``."""
    return f"{n:,}"


def rate(per_s: float) -> str:
    """Three digits at least, no more than the eye wants: ``3,210``, ``21.4``."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def size(n_bytes: int) -> str:
    """Bytes by powers of 1000: ``153.2 MB``."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """``8.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 05 min``, ``1 d 3 h``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def moment(at: datetime) -> str:
    """RFC 3339 in UTC. A time without a zone is what the database stored without one: it is left as it is."""
    if at.tzinfo is None:
        return at.isoformat()
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def clock(at: datetime) -> str:
    """A time for a table that people read: to the second, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def percent(fraction: float) -> str:
    """Whole percents; 100 only when it is all."""
    return f"{int(fraction * 100)} %" if fraction < 1 else "100 %"


def since(at: datetime, what: str) -> str:
    """``since 10:02:11 UTC: what``: how every face says what is waited for. at is in UTC."""
    return f"{_SINCE}{at:%H:%M:%S} UTC: {what}"


def since_epoch(at: float, what: str) -> str:
    """As since(); at: in seconds of the epoch, as a clock has it."""
    return since(datetime.fromtimestamp(at, UTC), what)


def says_since(told: str) -> bool:
    """Does this say already since when?"""
    return told.startswith(_SINCE)


def visible(text: str, most: int | None = None) -> str:
    """Foreign text for a person's eyes, on one line: what is not seen, or changes how others are seen, as an escape.

    Control characters (``\\x1b``), lone surrogates of odd file names (``\\udc80``), changes of direction (``\\u202e``), ends of lines.
    most: characters at most; the middle of what is longer is left out, for a path and a message tell most at their ends.
    """
    if most is not None and len(text) > most:
        head = (most - 1) // 2
        text = f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
    return "".join(_escaped(character) if _is_unseen(character) else character for character in text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
