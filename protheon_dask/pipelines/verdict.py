"""What is said of a line that was refused: short, printable, and with the place in the author's code."""

from __future__ import annotations

from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Final

import msgspec

from protheon_dask.errors import ProtheonError

BLANK: Final = b" \t\r"
REASON_CHARACTERS: Final = 500
"""Longest reason that is kept; chosen so that a page of rejects stays readable and 50,000 of them small."""

VANISHED: Final = "vanished: the pipeline gave neither a row nor a verdict"

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes: bad JSON or wrong types, text that is not UTF-8, brackets nested too deep."""

NOT_THE_LINES_FAULT: Final = (MemoryError, ImportError, ProtheonError)
"""Errors of the author's code that no line can be blamed for: the chunk fails. A Reject is caught before."""


def clean(text: str) -> str:
    """Make a text that PostgreSQL takes: no NUL, no lone surrogates, of at most REASON_CHARACTERS."""
    text = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 3] + "..."


def decode_reason(error: Exception) -> str:
    """Say in msgspec's words why a line could not be decoded."""
    if isinstance(error, RecursionError):
        return "JSON is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} (byte 0x{error.object[error.start]:02x})"
    return clean(str(error))


def reason_of(error: Exception, code: CodeType | None) -> str:
    """Say what an exception is and where in the author's file it came from: ``ValueError: .. (orders.py:12 in parse)``."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    place = _place(error.__traceback__, code)
    return clean(text[: REASON_CHARACTERS - len(place)]) + place


def _place(traceback: TracebackType | None, code: CodeType | None) -> str:
    """The last frame in the file of the author's function."""
    found: tuple[int, CodeType] | None = None
    while traceback is not None:
        at = traceback.tb_frame.f_code
        if code is not None and at.co_filename == code.co_filename:
            found = traceback.tb_lineno, at
        traceback = traceback.tb_next
    return "" if found is None else f" ({Path(found[1].co_filename).name}:{found[0]} in {found[1].co_name})"


def code_of(function: Any) -> CodeType | None:
    """The code of a function that is Python's."""
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
