"""Encoders for binary COPY that refuse a value rather than change it, one class for each type on the wire.

psycopg's own encoders are fast and trust their caller: 2**31 for an ``integer`` is sent as -2**31, ``"no"`` for a
``boolean`` as true, an int for an ``interval`` as whatever lies in memory. Those types have encoders of their own here,
built from C callables (``struct`` and a dict's lookup): about 0.2 us a row of eight integers more than psycopg's, and
far less than Python code for each value. Times, numbers and uuids also take the text that JSON has instead of them.
"""

from __future__ import annotations

import datetime
import decimal
import ipaddress
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.array import ListBinaryDumper

from protheon_dask.pipelines.row import encode_json

Encode = Callable[[Any], Buffer]

ENCODE_ERRORS: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
    psycopg.DataError,
)
"""What an encoder raises for a value that is not of its column's type; the server's own DataError carries an SQLSTATE."""

MAX_NUMERIC_DIGITS: Final = 131_072
"""Digits before the point that numeric can hold (PostgreSQL manual, 8.1.2); psycopg would build them all before asking."""

NUMERIC: Final = 1700
INFINITY: Final = struct.pack("!HhHH", 0, 0, 0xD000, 0x20)
MINUS_INFINITY: Final = struct.pack("!HhHH", 0, 0, 0xF000, 0x20)
"""The binary form of numeric's infinities: no digits, no weight, a sign of their own, the scale."""

TEXT: Final = 25
"""The oid of text, in whose binary form enums, char(n) and other text-like types travel too."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A type whose binary form is that of base_oid: a built-in type, a domain over one, an enum."""

    base_oid: int


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """An array, or a domain over one; the elements' exact oid travels with it."""

    element_oid: int


Wire = Plain | ArrayOf


def register_encoders(context: AdaptContext, wires: Mapping[int, Wire], *, are_exact: bool = False) -> None:
    """Teach a cursor, or what else has adapters, to send these types by their exact oids; elements come before their arrays in wires.

    are_exact: the values of the plainest types need no check; psycopg's own encoders then take 60 % of the time (measured).
    """
    for oid, wire in wires.items():
        match wire:
            case Plain(base_oid) if are_exact and oid == base_oid and base_oid in _PLAINEST:
                pass
            case Plain(base_oid) if base_oid in _EXACT:
                members = {"oid": oid, "dump": staticmethod(_EXACT[base_oid])}
                context.adapters.register_dumper(None, type("ExactEncoder", (_Encoder,), members))
            case Plain(base_oid) if base_oid in _CONVERTED or oid != base_oid:
                members = {"oid": oid, "base_oid": base_oid}
                base = _Numeric if base_oid == NUMERIC else _Converting
                context.adapters.register_dumper(None, type("ConvertingEncoder", (base,), members))
            case Plain():
                pass  # psycopg's own encoder is exact
            case ArrayOf(element_oid):
                members = {"oid": oid, "element_oid": element_oid}
                context.adapters.register_dumper(None, type("ArrayEncoder", (_Array,), members))


class _Encoder(Dumper):
    """A dumper that is looked up by oid only."""

    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer | None:
        raise NotImplementedError


class _Converting(_Encoder):
    """psycopg's encoder of base_oid, given only values of its own Python type."""

    base_oid: int

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        base = psycopg.adapters.get_dumper_by_oid(self.base_oid, Format.BINARY)
        self._encode = base(cls, context).dump
        self._wanted, self._convert = _CONVERTED.get(self.base_oid, (None, _as_is))
        self._special = _INFINITE.get(self.base_oid, {})

    def dump(self, obj: Any) -> Buffer | None:
        if type(obj) is self._wanted:
            return self._encode(obj)
        special = self._special.get(obj) if type(obj) is str else None
        return self._encode(self._convert(obj)) if special is None else special


class _Numeric(_Converting):
    """Numbers in the form in which the server sends them back, so that checksums agree.

    psycopg's own form of an int has zeros at its ends that the server takes off; an infinity comes back with a scale of 32,
    which is how its header reads (numeric.c: NUMERIC_PINF & NUMERIC_SHORT_DSCALE_MASK).
    """

    def dump(self, obj: Any) -> Buffer | None:
        value = _numeric(obj)
        if value.is_infinite():
            return MINUS_INFINITY if value < 0 else INFINITY
        return self._encode(value)


class _Array(ListBinaryDumper):
    """A list or tuple, nested as deep as the array has dimensions."""

    def dump(self, obj: Any) -> Buffer | None:
        if type(obj) is tuple:
            obj = list(obj)
        if not isinstance(obj, list):
            raise TypeError(f"a list is needed, not {type(obj).__name__}")
        return super().dump(obj)


def _as_is(value: Any) -> Any:
    return value


def _json(value: Any) -> bytes:
    """JSON text: str and bytes are it already, anything else is encoded."""
    if type(value) is bytes:
        return value
    if type(value) is str:
        return value.encode()
    return encode_json(value)


def _jsonb(value: Any) -> bytes:
    return b"\x01" + _json(value)  # the version of jsonb's binary form


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"bytes are needed, not {type(value).__name__}")
    return bytes(value)


def _mac(n_bytes: int) -> Encode:
    def encode(value: Any) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f"the text of a hardware address is needed, not {type(value).__name__}")
        data = bytes.fromhex(value.replace(":", "").replace("-", "").replace(".", ""))
        if len(data) != n_bytes:
            raise ValueError(f"{n_bytes} bytes are needed, not {len(data)}")
        return data

    return encode


def _bits(value: Any) -> bytes:
    """A text of 0 and 1, the first bit first."""
    if not isinstance(value, str) or not set(value) <= {"0", "1"}:
        raise TypeError("a text of 0 and 1 is needed")
    n_bytes = -(-len(value) // 8)
    return struct.pack("!i", len(value)) + int(value.ljust(8 * n_bytes, "0") or "0", 2).to_bytes(n_bytes, "big")


def _instance_or_text(wanted: type, from_text: Callable[[str], Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return from_text(value)
        if not isinstance(value, wanted):
            raise TypeError(f"{wanted.__name__} or its text is needed, not {type(value).__name__}")
        return value

    return convert


def _date(value: Any) -> Any:
    if isinstance(value, str):
        return datetime.date.fromisoformat(value)
    if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
        raise TypeError(f"date or its text is needed, not {type(value).__name__}")
    return value


def _time(value: Any) -> Any:
    if isinstance(value, str):
        value = datetime.time.fromisoformat(value)
    if not isinstance(value, datetime.time) or value.tzinfo is not None:
        raise TypeError("a time without a time zone is needed")
    return value


def _interval(value: Any) -> Any:
    if not isinstance(value, datetime.timedelta):
        raise TypeError(f"timedelta is needed, not {type(value).__name__}")
    return value


def _numeric(value: Any) -> decimal.Decimal:
    """A Decimal as it is, an int as a Decimal, a float as the shortest decimal that reads back as it, a text as the number it says."""
    if isinstance(value, float):
        value = decimal.Decimal(repr(value))
    elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        value = decimal.Decimal(value)
    elif not isinstance(value, decimal.Decimal):
        raise TypeError(f"a number or its text is needed, not {type(value).__name__}")
    if value.is_finite() and abs(value.adjusted()) >= MAX_NUMERIC_DIGITS:
        raise OverflowError(f"a number of more than {MAX_NUMERIC_DIGITS} digits")
    number: decimal.Decimal = value
    return number


_EXACT: Final[dict[int, Encode]] = {
    16: {True: b"\x01", False: b"\x00"}.__getitem__,  # boolean: also 1 and 0, nothing else
    17: _bytes,
    21: struct.Struct("!h").pack,  # smallint
    23: struct.Struct("!i").pack,  # integer
    26: struct.Struct("!I").pack,  # oid
    700: struct.Struct("!f").pack,  # real
    774: _mac(8),  # macaddr8
    829: _mac(6),  # macaddr
    1560: _bits,  # bit(n)
    1562: _bits,  # varbit
    114: _json,
    3802: _jsonb,
}
"""Encoders instead of psycopg's, by the type's oid."""

_PLAINEST: Final = frozenset({16, 21, 23})
"""boolean, smallint, integer: a bool or an int of that range is sent by psycopg as it is."""

_CONVERTED: Final[dict[int, tuple[type | None, Callable[[Any], Any]]]] = {
    650: (None, _instance_or_text(object, ipaddress.ip_network)),  # cidr
    869: (None, _instance_or_text(object, ipaddress.ip_interface)),  # inet
    1082: (datetime.date, _date),
    1083: (None, _time),  # every value is looked at: psycopg drops a time zone silently
    1114: (datetime.datetime, _instance_or_text(datetime.datetime, datetime.datetime.fromisoformat)),
    1184: (datetime.datetime, _instance_or_text(datetime.datetime, datetime.datetime.fromisoformat)),
    1186: (datetime.timedelta, _interval),
    1266: (datetime.time, _instance_or_text(datetime.time, datetime.time.fromisoformat)),
    1700: (None, _numeric),  # every value is looked at: its digits are bounded
    2950: (uuid.UUID, _instance_or_text(uuid.UUID, uuid.UUID)),
}
"""By the type's oid: the Python type that psycopg's encoder takes as it is, and how any other value becomes one."""

_INFINITE: Final[dict[int, dict[str, bytes]]] = {
    oid: {"infinity": struct.pack(form, most), "-infinity": struct.pack(form, -most - 1)}
    for oid, form, most in ((1082, "!i", 2**31 - 1), (1114, "!q", 2**63 - 1), (1184, "!q", 2**63 - 1))
}
"""By the type's oid: texts of times that Python has no value for, as date, timestamp and timestamptz keep them."""

PLAIN_OIDS: Final = frozenset({*_EXACT, *_CONVERTED, 20, TEXT, 701, 1043})
"""The built-in types that can be sent."""
