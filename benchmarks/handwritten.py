"""A pipeline as somebody writes it who knows the reports and the API: the columns that `protheon scaffold` gives them, no more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec

import protheon_dask as protheon


class Report(protheon.Row, table="bench_hand.reports", primary_key="activity_details_instance_id", on_conflict="ignore"):
    id: int
    archived: dt.datetime
    period: dt.datetime
    starting_phase_index: int
    activity_was_started_from_beginning: bool
    activity_details_reference_id: int
    activity_details_director_activity_hash: int
    activity_details_instance_id: int
    activity_details_mode: int
    activity_details_modes: list[int]
    activity_details_is_private: bool
    activity_details_membership_type: int
    teams: Any


class Entry(protheon.Row, table="bench_hand.reports_entries", primary_key=("instance_id", "entry_no"), on_conflict="ignore"):
    instance_id: int
    entry_no: int
    standing: int
    score: int
    icon_path: str
    cross_save_override: int
    applicable_membership_types: list[int]
    is_public: bool
    membership_type: int
    membership_id: int
    display_name: str
    bungie_global_display_name: str
    bungie_global_display_name_code: int
    character_class: str
    class_hash: int
    race_hash: int
    gender_hash: int
    character_level: int
    light_level: int
    emblem_hash: int
    character_id: int
    assists: int
    completed: int
    deaths: int
    kills: int
    opponents_defeated: int
    efficiency: float
    kills_deaths_ratio: float
    kills_deaths_assists: float
    values_score: int
    activity_duration_seconds: int
    completion_reason: int
    fireteam_id: int
    start_seconds: int
    time_played_seconds: int
    player_count: int
    team_score: int
    precision_kills: int
    weapon_kills_grenade: int
    weapon_kills_melee: int
    weapon_kills_super: int
    weapon_kills_ability: int


class Weapon(protheon.Row, table="bench_hand.reports_weapons", primary_key=("instance_id", "entry_no", "weapon_no"), on_conflict="ignore"):
    instance_id: int
    entry_no: int
    weapon_no: int
    reference_id: int
    kills: int
    precision_kills: int
    precision_ratio: float


class Part(msgspec.Struct, gc=False, rename="camel"):
    """Reports are trees: the collector need not look at them."""


class Details(Part):
    reference_id: int
    director_activity_hash: int
    instance_id: int
    mode: int
    modes: list[int]
    is_private: bool
    membership_type: int


class User(Part):
    icon_path: str
    cross_save_override: int
    applicable_membership_types: list[int]
    is_public: bool
    membership_type: int
    membership_id: int
    display_name: str
    bungie_global_display_name: str
    bungie_global_display_name_code: int


class Player(Part):
    destiny_user_info: User
    character_class: str
    class_hash: int
    race_hash: int
    gender_hash: int
    character_level: int
    light_level: int
    emblem_hash: int


class Values(Part):
    assists: int
    completed: int
    deaths: int
    kills: int
    opponents_defeated: int
    efficiency: float
    kills_deaths_ratio: float
    kills_deaths_assists: float
    score: int
    activity_duration_seconds: int
    completion_reason: int
    fireteam_id: int
    start_seconds: int
    time_played_seconds: int
    player_count: int
    team_score: int


class WeaponValues(Part):
    unique_weapon_kills: int
    unique_weapon_precision_kills: int
    unique_weapon_kills_precision_kills: float


class LineWeapon(Part):
    reference_id: int
    values: WeaponValues


class ExtendedValues(Part):
    precision_kills: int
    weapon_kills_grenade: int
    weapon_kills_melee: int
    weapon_kills_super: int
    weapon_kills_ability: int


class Extended(Part):
    values: ExtendedValues
    weapons: list[LineWeapon] | None = None


class LineEntry(Part):
    standing: int
    score: int
    player: Player
    character_id: int
    values: Values
    extended: Extended


class Line(Part):
    archived: dt.datetime
    period: dt.datetime
    starting_phase_index: int
    activity_was_started_from_beginning: bool
    activity_details: Details
    entries: list[LineEntry]
    teams: Any
    id: int = msgspec.field(name="_id")


@protheon.pipeline
def handwritten(line: Line) -> Iterator[Report | Entry | Weapon]:
    d = line.activity_details
    instance_id = d.instance_id
    yield Report(
        line.id,
        line.archived,
        line.period,
        line.starting_phase_index,
        line.activity_was_started_from_beginning,
        d.reference_id,
        d.director_activity_hash,
        instance_id,
        d.mode,
        d.modes,
        d.is_private,
        d.membership_type,
        line.teams,
    )
    for entry_no, entry in enumerate(line.entries, start=1):
        p, v, x = entry.player, entry.values, entry.extended.values
        u = p.destiny_user_info
        yield Entry(
            instance_id,
            entry_no,
            entry.standing,
            entry.score,
            u.icon_path,
            u.cross_save_override,
            u.applicable_membership_types,
            u.is_public,
            u.membership_type,
            u.membership_id,
            u.display_name,
            u.bungie_global_display_name,
            u.bungie_global_display_name_code,
            p.character_class,
            p.class_hash,
            p.race_hash,
            p.gender_hash,
            p.character_level,
            p.light_level,
            p.emblem_hash,
            entry.character_id,
            v.assists,
            v.completed,
            v.deaths,
            v.kills,
            v.opponents_defeated,
            v.efficiency,
            v.kills_deaths_ratio,
            v.kills_deaths_assists,
            v.score,
            v.activity_duration_seconds,
            v.completion_reason,
            v.fireteam_id,
            v.start_seconds,
            v.time_played_seconds,
            v.player_count,
            v.team_score,
            x.precision_kills,
            x.weapon_kills_grenade,
            x.weapon_kills_melee,
            x.weapon_kills_super,
            x.weapon_kills_ability,
        )
        for weapon_no, weapon in enumerate(entry.extended.weapons or (), start=1):
            w = weapon.values
            yield Weapon(
                instance_id,
                entry_no,
                weapon_no,
                weapon.reference_id,
                w.unique_weapon_kills,
                w.unique_weapon_precision_kills,
                w.unique_weapon_kills_precision_kills,
            )
