"""Post game carnage reports as they come: the dump's flat numbers, and the API's ``{"basic": {"value": ..}}``.

Fields are named and typed so that msgspec converts in C: ids in strings and ``3.0`` become ints, and what does not fit the
column's integer is refused. Only fields that reach a column are declared; the rest is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

INT4_MAX: Final = 2**31 - 1
Int4 = Annotated[int, Meta(ge=-(2**31), le=INT4_MAX)]
Int8 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Instant = Annotated[datetime, Meta(tz=True)]

T = TypeVar("T")


class _Part(Struct, gc=False, rename="camel"):
    """Reports are trees, so that the garbage collector need not look at them: decoding is a third faster."""


class ActivityDetails(_Part):
    instance_id: Int8
    director_activity_hash: Int8 | None = None
    reference_id: Int8 | None = None
    mode: Int4 | None = None
    modes: list[Int4] | None = None
    is_private: bool | None = None
    membership_type: Int4 | None = None


class UserInfo(_Part):
    membership_id: Int8 | None = None
    membership_type: Int4 | None = None
    display_name: str | None = None
    bungie_global_display_name: str | None = None
    bungie_global_display_name_code: Int4 | None = None
    icon_path: str | None = None
    is_public: bool | None = None


class Player(_Part):
    destiny_user_info: UserInfo | None = None
    class_hash: Int8 | None = None
    race_hash: Int8 | None = None
    emblem_hash: Int8 | None = None
    light_level: Int4 | None = None


class Values(_Part):
    completed: Int4 | None = None
    kills: Int4 | None = None
    deaths: Int4 | None = None
    assists: Int4 | None = None
    kills_deaths_assists: float | None = None
    kills_deaths_ratio: float | None = None
    efficiency: float | None = None
    score: Int4 | None = None
    activity_duration_seconds: Int4 | None = None
    time_played_seconds: Int4 | None = None


class ExtendedValues(_Part):
    precision_kills: Int4 | None = None
    weapon_kills_super: Int4 | None = None
    weapon_kills_melee: Int4 | None = None
    weapon_kills_grenade: Int4 | None = None
    weapon_kills_ability: Int4 | None = None


class WeaponValues(_Part):
    unique_weapon_kills: Int4 | None = None
    unique_weapon_precision_kills: Int4 | None = None
    unique_weapon_kills_precision_kills: float | None = None


class Weapon(_Part):
    reference_id: Int8
    values: WeaponValues | None = None


class Extended(_Part):
    weapons: list[Weapon] | None = None
    values: ExtendedValues | None = None


class Entry(_Part):
    player: Player | None = None
    character_id: Int8 | None = None
    values: Values | None = None
    extended: Extended | None = None


class Report(_Part):
    period: Instant
    activity_details: ActivityDetails
    starting_phase_index: Int4 | None = None
    activity_was_started_from_beginning: bool | None = None
    entries: list[Entry] | None = None


class _Count(Struct, gc=False):
    value: Int4 | None = None


class Count(Struct, gc=False):
    basic: _Count


class _Ratio(Struct, gc=False):
    value: float | None = None


class Ratio(Struct, gc=False):
    basic: _Ratio


class ApiValues(_Part):
    completed: Count | None = None
    kills: Count | None = None
    deaths: Count | None = None
    assists: Count | None = None
    kills_deaths_assists: Ratio | None = None
    kills_deaths_ratio: Ratio | None = None
    efficiency: Ratio | None = None
    score: Count | None = None
    activity_duration_seconds: Count | None = None
    time_played_seconds: Count | None = None


class ApiExtendedValues(_Part):
    precision_kills: Count | None = None
    weapon_kills_super: Count | None = None
    weapon_kills_melee: Count | None = None
    weapon_kills_grenade: Count | None = None
    weapon_kills_ability: Count | None = None


class ApiWeaponValues(_Part):
    unique_weapon_kills: Count | None = None
    unique_weapon_precision_kills: Count | None = None
    unique_weapon_kills_precision_kills: Ratio | None = None


class ApiWeapon(_Part):
    reference_id: Int8
    values: ApiWeaponValues | None = None


class ApiExtended(_Part):
    weapons: list[ApiWeapon] | None = None
    values: ApiExtendedValues | None = None


class ApiEntry(_Part):
    player: Player | None = None
    character_id: Int8 | None = None
    values: ApiValues | None = None
    extended: ApiExtended | None = None


class ApiReport(_Part):
    period: Instant
    activity_details: ActivityDetails
    starting_phase_index: Int4 | None = None
    activity_was_started_from_beginning: bool | None = None
    entries: list[ApiEntry] | None = None


class Envelope(Struct, gc=False):
    """The API's answer around a report; without Response it is the report itself."""

    response: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Response")


_FLAT = msgspec.json.Decoder(Report, strict=False).decode
_API = msgspec.json.Decoder(ApiReport, strict=False).decode
_ENVELOPE = msgspec.json.Decoder(Envelope).decode


def decode_report(line: bytes) -> Report:
    """Decode one report of either shape.

    Raises:     msgspec.MsgspecError, UnicodeDecodeError, RecursionError: the line is no report; nothing else.
    Source:     measured: the flat shape decodes at about 280 MB/s a core. It is tried first, since the dump is the bulk; what is
                no flat report fails at its first number, before the line's first kilobyte is over.
    """
    if not line.startswith(b'{"Response"'):
        try:
            return _FLAT(line)
        except msgspec.ValidationError:
            if b'"basic"' not in line and b'"Response"' not in line:
                raise
    body = _ENVELOPE(line).response
    document = body if len(memoryview(body)) else line
    return _flat(_API(document)) if b'"basic"' in line else _FLAT(document)


def _flat(report: ApiReport) -> Report:
    return Report(
        report.period,
        report.activity_details,
        report.starting_phase_index,
        report.activity_was_started_from_beginning,
        [_flat_entry(entry) for entry in report.entries or ()],
    )


def _flat_entry(entry: ApiEntry) -> Entry:
    values, extended = entry.values, entry.extended
    return Entry(
        entry.player,
        entry.character_id,
        None if values is None else _unwrap(values, Values),
        None if extended is None else _flat_extended(extended),
    )


def _flat_extended(extended: ApiExtended) -> Extended:
    return Extended(
        [Weapon(w.reference_id, None if w.values is None else _unwrap(w.values, WeaponValues)) for w in extended.weapons or ()],
        None if extended.values is None else _unwrap(extended.values, ExtendedValues),
    )


def _unwrap(wrapped: Struct, flat: Callable[..., T]) -> T:
    """Both structs have the same fields in the same order."""
    return flat(*[None if number is None else number.basic.value for number in msgspec.structs.astuple(wrapped)])
