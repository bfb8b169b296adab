"""What is said of a line that was refused: short, printable, and with the place in the author's code."""

from __future__ import annotations

import re
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, Final

import msgspec

from protheon_dask.errors import ProtheonError

BLANK: Final = b" \t\r"
REASON_CHARACTERS: Final = 500
"""Longest reason that is kept; chosen so that a page of rejects stays readable and 50,000 of them small."""

BROKEN_JSON: Final = re.compile(rb'\{\s*"|\[\s*["{\[]')
"""How a line begins that was meant to be JSON."""
SHORT_BYTES: Final = 60
"""A line that begins with a bracket and ends before this is likelier the first of many than a document that was cut."""
JSON_WANTED: Final = re.compile(r"JSON|Expected `|Input data was truncated|DecodeError")
"""In a reason: msgspec or Python's json read the line. Only a hint hangs on it."""

VANISHED: Final = "vanished: the pipeline gave neither a row nor a verdict"

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes: bad JSON or wrong types, text that is not UTF-8, brackets nested too deep."""

NOT_THE_LINES_FAULT: Final = (MemoryError, ImportError, ProtheonError)
"""Errors of the author's code that no line can be blamed for: the chunk fails. A Reject is caught before."""


def clean(text: str) -> str:
    """Make a text that PostgreSQL takes: no NUL, no lone surrogates, of at most REASON_CHARACTERS."""
    text = text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 3] + "..."


ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""``\\u0000`` after an even number of backslashes: the escape itself, not a backslash before the text ``u0000``."""
NO_NUL: Final = "\\u0000 in a string: PostgreSQL's text cannot hold it"

BOM: Final = b"\xef\xbb\xbf"
HALF_PAIR: Final = re.compile(rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F])")
"""The escape of one half of a surrogate pair without the other: no character."""
PLACE: Final = re.compile(r"\(byte (\d+)\)")
"""Where msgspec gave up; only a hint hangs on it."""


def decode_reason(error: Exception, line: bytes) -> str:
    """Say why a line could not be decoded: in msgspec's words, and in a person's where they do not tell the cause."""
    if isinstance(error, RecursionError):
        return "JSON is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} (byte 0x{error.object[error.start]:02x})"
    text = str(error)
    if isinstance(error, msgspec.ValidationError) or not (cause := _cause(text, line)):
        return clean(text)
    return clean(f"{text}: {cause}")


def _cause(text: str, line: bytes) -> str | None:
    """What a person would say of a line that is no JSON; None where the decoder's words say it."""
    place = PLACE.search(text)
    at = len(line) if place is None else int(place[1])
    rest = line[at : at + 8]
    if line and not line.strip(b"\0"):
        return "nothing but NUL bytes"
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in line and 3 * line.count(b"\0") >= len(line)):
        return "it looks like UTF-16 or UTF-32; lines are UTF-8"
    if line.startswith(BOM):
        return "a byte order mark in the middle of the source"
    if rest.startswith((b"NaN", b"Inf")):
        return "NaN and Infinity are no JSON"
    if rest.startswith(b"\0"):
        return "a NUL byte"
    if place is not None and "trailing" in text and line[at - 1 : at] in (b"{", b"["):  # this place counts from 1
        return "a second document on the line"
    if HALF_PAIR.search(line):
        return "half of a surrogate pair, which is no character"
    return "the line ends before its JSON does" if place is None else None


def no_json_way_on(line: bytes, reason: str) -> str | None:
    """What a person can do with a file whose lines are like this one, if it was refused for being no JSON."""
    if not JSON_WANTED.search(reason):
        return None
    try:
        msgspec.json.decode(line)
    except DECODE_ERRORS:
        return way_on(line)
    return None


def way_on(line: bytes) -> str:
    """What a person can do with a file whose lines are like this one, which is no JSON."""
    text = line.strip(BLANK)
    if text[:1] in (b"[", b"{") and len(text) < SHORT_BYTES:
        way = "'.[]'" if text.startswith(b"[") else "."
        return f"this looks like JSON over many lines: make it one object a line, for example with jq -c {way} FILE"
    if BROKEN_JSON.match(text):
        return "this looks like JSON that is cut or broken on its line: mend what writes it, and load the file that it writes then"
    for separator, called in ((b"\t", "tabs"), (b";", "semicolons"), (b",", "commas")):
        if text.count(separator) >= 2 and text[:1] not in (b"[", b"{"):  # there they are JSON's, or a log's
            return (
                f"this looks like columns with {called} between them: psql's \\copy or DuckDB reads CSV; "
                f"here, write a pipeline that takes bytes (docs/pipelines.md, Bytes)"
            )
    return "JSON is read one object a line; for other text write a pipeline that takes bytes (docs/pipelines.md, Bytes)"


def reason_of(error: BaseException, code: CodeType | None) -> str:
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
