"""The built-in pipeline ``pgcr``: Destiny 2 post game carnage reports into five tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from protheon_dask.errors import Reject
from protheon_dask.pipelines.pgcr_model import (
    INT4_MAX,
    Entry,
    ExtendedValues,
    Report,
    UserInfo,
    Values,
    Weapon,
    WeaponValues,
    decode_report,
)
from protheon_dask.pipelines.pgcr_tables import TABLES
from protheon_dask.pipelines.pipeline import ChunkContext, Pipeline
from protheon_dask.pipelines.table import BatchRows, Table, TableRows, Verdict
from protheon_dask.pipelines.verdict import BLANK, DECODE_ERRORS, clean, decode_reason

BEYOND_LIGHT: Final = datetime(2020, 11, 10, 17, tzinfo=UTC)
WITCH_QUEEN: Final = datetime(2022, 2, 22, 17, tzinfo=UTC)
HAUNTED: Final = datetime(2022, 5, 24, 17, tzinfo=UTC)
"""Releases at which the data's flag changed its meaning; a time equal to one is after it."""

SCOURGE_OF_THE_PAST: Final = frozenset({548750096, 2812525063})
LEVIATHAN: Final = frozenset(
    {
        *(2693136600, 2693136601, 2693136602, 2693136603, 2693136604, 2693136605),
        *(89727599, 287649202, 1699948563, 1875726950, 3916343513, 4039317196, 417231112),
        *(508802457, 757116822, 771164842, 1685065161, 1800508819, 2449714930, 3446541099, 4206123728, 3912437239, 3879860661, 3857338478),
    }
)

_NO_VALUES = Values()
_NO_EXTENDED_VALUES = ExtendedValues()
_NO_WEAPON_VALUES = WeaponValues()


@dataclass(frozen=True, slots=True)
class PgcrForm:
    """Decodes reports by their shape; holds nothing."""

    @property
    def function(self) -> Any:
        return decode_report

    def open(self, tables: tuple[Table, ...], context: ChunkContext) -> PgcrTransformer:  # noqa: ARG002  # the tables are fixed
        return PgcrTransformer()


@dataclass(frozen=True, slots=True)
class PgcrTransformer:
    """Rows of the five tables, report after report."""

    def transform(self, lines: Sequence[bytes], line_nos: Sequence[int]) -> BatchRows:  # noqa: ARG002  # rows carry no line number
        tables = [TableRows() for _ in TABLES]
        batch = BatchRows(len(lines), tables)
        marks = [(table.rows, table.ends.append) for table in tables]
        rows = [table.rows for table in tables]
        for index, line in enumerate(lines):
            try:
                add_rows(decode_report(line), index, rows, batch.parts)
            except DECODE_ERRORS as error:
                if line.strip(BLANK):
                    batch.rejected.append(Verdict(index, decode_reason(error, line)))
                else:
                    batch.blank.append(index)
            except Reject as verdict:
                batch.rejected.append(Verdict(index, clean(verdict.reason)))
            for table_rows, end in marks:
                end(len(table_rows))
        return batch


pgcr: Final = Pipeline("pgcr", "1", TABLES, PgcrForm(), values_are_exact=True)  # by the ranges of pgcr_model and of _sum


def add_rows(report: Report, index: int, tables: Sequence[list[Sequence[Any]]], parts: list[Verdict]) -> None:
    """Append the report's rows to the five tables' lists and its refused parts, or raise Reject with nothing appended."""
    instances, destiny_players, players, characters, weapons = tables
    details, period = report.activity_details, report.period
    instance_id = details.instance_id
    keyed, refused = _keyed(report.entries or (), index)

    users: dict[int, UserInfo] = {}
    played: dict[int, tuple[bool, int | None]] = {}
    new_characters: list[Sequence[Any]] = []
    new_weapons: list[Sequence[Any]] = []
    any_completed, flawless, duration_s = False, bool(keyed), None
    for (membership_id, character_id), (entry, user) in keyed.items():
        values, player, extended = entry.values or _NO_VALUES, entry.player, entry.extended
        assert player is not None  # _keyed found the user in it
        more = _NO_EXTENDED_VALUES
        if extended is not None:
            more = extended.values or more
            if extended.weapons:
                new_weapons += _weapons(instance_id, membership_id, character_id, extended.weapons)
        completed, time_s, lasted_s = values.completed == 1, values.time_played_seconds, values.activity_duration_seconds
        new_characters.append(
            (
                instance_id,
                membership_id,
                character_id,
                player.class_hash,
                player.race_hash,
                player.emblem_hash,
                player.light_level,
                completed,
                values.kills,
                values.deaths,
                values.assists,
                values.kills_deaths_assists,
                values.kills_deaths_ratio,
                values.efficiency,
                values.score,
                more.precision_kills,
                more.weapon_kills_super,
                more.weapon_kills_melee,
                more.weapon_kills_grenade,
                more.weapon_kills_ability,
                time_s,
            )
        )
        if completed:
            any_completed = True
        if values.deaths != 0:  # unknown deaths are no proof of none
            flawless = False
        if lasted_s is not None and (duration_s is None or lasted_s > duration_s):
            duration_s = lasted_s
        if membership_id in users:
            completed_before, time_before_s = played[membership_id]
            completed, time_s = completed or completed_before, _sum(time_s, time_before_s)
        users[membership_id] = user
        played[membership_id] = (completed, time_s)

    try:
        ended_at = None if duration_s is None else period + timedelta(seconds=duration_s)
    except OverflowError:
        raise Reject(f"period plus {duration_s} seconds is no time") from None
    is_fresh = _is_fresh(report, flawless)
    new_players = [_destiny_player(membership_id, user, period) for membership_id, user in users.items()]
    instances.append(
        (
            instance_id,
            details.director_activity_hash,
            details.reference_id,
            details.mode,
            details.modes,
            details.is_private,
            details.membership_type,
            period,
            ended_at,
            duration_s,
            report.starting_phase_index,
            report.activity_was_started_from_beginning,
            is_fresh,
            any_completed,
            flawless,
            len(users),
        )
    )
    destiny_players += new_players
    players += [(instance_id, membership_id, completed, time_s) for membership_id, (completed, time_s) in played.items()]
    characters += new_characters
    weapons += new_weapons
    parts += refused


def _weapons(instance_id: int, membership_id: int, character_id: int, weapons: list[Weapon]) -> Iterable[Sequence[Any]]:
    """Rows of one character's weapons; of two with the same hash the last."""
    try:
        return {
            weapon.reference_id: (
                instance_id,
                membership_id,
                character_id,
                weapon.reference_id,
                weapon.values.unique_weapon_kills,  # type: ignore[union-attr]  # None is the handler's: no look at each in the hot loop
                weapon.values.unique_weapon_precision_kills,  # type: ignore[union-attr]
                weapon.values.unique_weapon_kills_precision_kills,  # type: ignore[union-attr]
            )
            for weapon in weapons
        }.values()
    except AttributeError:
        whole = [Weapon(weapon.reference_id, weapon.values or _NO_WEAPON_VALUES) for weapon in weapons]
        return _weapons(instance_id, membership_id, character_id, whole)


_Keyed = dict[tuple[int, int], tuple[Entry, UserInfo]]


def _keyed(entries: Sequence[Entry], index: int) -> tuple[_Keyed, list[Verdict]]:
    """Entries by player and character, of two with the same key the last; and the refusals of those without a key."""
    keyed: _Keyed = {}
    refused: list[Verdict] = []
    for place, entry in enumerate(entries):
        user = None if entry.player is None else entry.player.destiny_user_info
        if user is None or user.membership_id is None or entry.character_id is None:
            missing = "characterId" if user is not None and user.membership_id is not None else "membershipId"
            refused.append(Verdict(index, f"{missing} is missing", f"entries[{place}]"))
            continue
        key = user.membership_id, entry.character_id
        if key in keyed:
            del keyed[key]  # so that the last one also stands last
        keyed[key] = entry, user
    return keyed, refused


def _destiny_player(membership_id: int, user: UserInfo, last_seen: datetime) -> tuple[Any, ...]:
    display_name, global_name, icon_path = user.display_name, user.bungie_global_display_name, user.icon_path
    for text in (display_name, global_name, icon_path):
        if text is not None and "\0" in text:
            raise Reject(f"\\u0000 in a text of player {membership_id}: PostgreSQL's text cannot hold it")
    return (
        membership_id,
        user.membership_type,
        display_name,
        global_name,
        user.bungie_global_display_name_code,
        icon_path,
        user.is_public,
        last_seen,
    )


def _sum(time_s: int | None, more_s: int | None) -> int | None:
    if time_s is None or more_s is None:
        return more_s if time_s is None else time_s
    if not -INT4_MAX <= time_s + more_s <= INT4_MAX:
        raise Reject(f"time_played_seconds of a player's characters add up to {time_s + more_s}, beyond integer")
    return time_s + more_s


def _is_fresh(report: Report, flawless: bool) -> bool | None:
    """Whether the activity was started at its beginning; None where that is unknown (PGCR, is_fresh)."""
    period, flag = report.period, report.activity_was_started_from_beginning
    if period >= HAUNTED:
        return flag
    if period >= BEYOND_LIGHT:
        return True if period >= WITCH_QUEEN and (flag or flawless) else None
    phase, activity = report.starting_phase_index, report.activity_details.director_activity_hash
    if phase is None:
        return None
    if activity in SCOURGE_OF_THE_PAST:
        return phase <= 1
    return phase in (0, 2) if activity in LEVIATHAN else phase == 0
