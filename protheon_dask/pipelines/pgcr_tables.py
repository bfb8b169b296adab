"""The five tables of post game carnage reports, each column with its sentence."""

from __future__ import annotations

from typing import Final

from protheon_dask.pipelines.table import Column, Table


def _key(name: str, comment: str) -> Column:
    return Column(name, "bigint", not_null=True, comment=comment)


_INSTANCE_ID: Final = _key("instance_id", "The report's number; ids rise with time.")
_MEMBERSHIP_ID: Final = _key("membership_id", "The player's account on one platform.")
_CHARACTER_ID: Final = _key("character_id", "One of the player's characters.")

INSTANCE: Final = Table(
    name="pgcr.instance",
    comment="One activity that was played, by whoever.",
    columns=(
        _INSTANCE_ID,
        Column("activity_hash", "bigint", comment="The activity as the director shows it (directorActivityHash)."),
        Column("reference_id", "bigint", comment="The activity's definition, difficulty included (referenceId)."),
        Column("mode", "integer", comment="The most specific activity mode."),
        Column("modes", "integer[]", comment="All activity modes, from general to specific."),
        Column("is_private", "boolean", comment="A private match."),
        Column("membership_type", "integer", comment="The platform that the report names for the activity; 0 is none."),
        Column("started_at", "timestamptz", not_null=True, comment="When the activity started (period)."),
        Column("ended_at", "timestamptz", comment="started_at and the longest duration of its entries; null without entries."),
        Column("duration_seconds", "integer", comment="The longest activityDurationSeconds of its entries; null without entries."),
        Column("starting_phase_index", "integer", comment="The phase at which the activity was joined, from 0."),
        Column("from_beginning", "boolean", comment="The data's own flag (activityWasStartedFromBeginning); not right at all times."),
        Column("is_fresh", "boolean", comment="Whether it was started at its beginning, by flag, phase and date; null where unknown."),
        Column("completed", "boolean", not_null=True, comment="Any character completed it."),
        Column("flawless", "boolean", not_null=True, comment="Nobody died; false without entries."),
        Column("player_count", "integer", not_null=True, comment="Distinct players."),
    ),
    primary_key=("instance_id",),
    on_conflict="ignore",
)

DESTINY_PLAYER: Final = Table(
    name="pgcr.destiny_player",
    comment="Players as they were last seen.",
    columns=(
        _MEMBERSHIP_ID,
        Column("membership_type", "integer", comment="The platform of the account."),
        Column("display_name", "text", comment="The name on the platform."),
        Column("global_display_name", "text", comment="The name on all platforms, without its code (bungieGlobalDisplayName)."),
        Column("global_display_name_code", "integer", comment="The number behind the global name (bungieGlobalDisplayNameCode)."),
        Column("icon_path", "text", comment="The emblem's picture, below https://www.bungie.net."),
        Column("is_public", "boolean", comment="Whether the profile is public."),
        Column("last_seen", "timestamptz", not_null=True, comment="The start of the latest activity from which these values come."),
    ),
    primary_key=("membership_id",),
    on_conflict="update",
    newer_by="last_seen",
    shared=True,
)

INSTANCE_PLAYER: Final = Table(
    name="pgcr.instance_player",
    comment="A player in an activity, all characters together.",
    columns=(
        _INSTANCE_ID,
        _MEMBERSHIP_ID,
        Column("completed", "boolean", not_null=True, comment="Any of the player's characters completed it."),
        Column("time_played_seconds", "integer", comment="The sum over the player's characters."),
    ),
    primary_key=("instance_id", "membership_id"),
    on_conflict="ignore",
)

INSTANCE_CHARACTER: Final = Table(
    name="pgcr.instance_character",
    comment="A character in an activity.",
    columns=(
        _INSTANCE_ID,
        _MEMBERSHIP_ID,
        _CHARACTER_ID,
        Column("class_hash", "bigint", comment="Titan, Hunter or Warlock."),
        Column("race_hash", "bigint", comment="Human, Awoken or Exo."),
        Column("emblem_hash", "bigint", comment="The emblem worn."),
        Column("light_level", "integer", comment="Power level."),
        Column("completed", "boolean", not_null=True, comment="The character completed the activity (its value is 1)."),
        Column("kills", "integer", comment="Opponents killed."),
        Column("deaths", "integer", comment="Own deaths."),
        Column("assists", "integer", comment="Assists."),
        Column("kda", "double precision", comment="Kills and half the assists per death (killsDeathsAssists)."),
        Column("kdr", "double precision", comment="Kills per death (killsDeathsRatio)."),
        Column("efficiency", "double precision", comment="Kills and assists per death."),
        Column("score", "integer", comment="The character's score."),
        Column("precision_kills", "integer", comment="Kills by precision damage."),
        Column("super_kills", "integer", comment="Kills by the super (weaponKillsSuper)."),
        Column("melee_kills", "integer", comment="Kills by melee (weaponKillsMelee)."),
        Column("grenade_kills", "integer", comment="Kills by grenades (weaponKillsGrenade)."),
        Column("ability_kills", "integer", comment="Kills by other abilities (weaponKillsAbility)."),
        Column("time_played_seconds", "integer", comment="How long the character took part."),
    ),
    primary_key=("instance_id", "membership_id", "character_id"),
    on_conflict="ignore",
)

INSTANCE_CHARACTER_WEAPON: Final = Table(
    name="pgcr.instance_character_weapon",
    comment="A weapon with which a character killed in an activity.",
    columns=(
        _INSTANCE_ID,
        _MEMBERSHIP_ID,
        _CHARACTER_ID,
        _key("weapon_hash", "The weapon's definition (referenceId)."),
        Column("kills", "integer", comment="Kills with it (uniqueWeaponKills)."),
        Column("precision_kills", "integer", comment="Of them, by precision damage (uniqueWeaponPrecisionKills)."),
        Column("precision_ratio", "double precision", comment="Precision kills per kill (uniqueWeaponKillsPrecisionKills)."),
    ),
    primary_key=("instance_id", "membership_id", "character_id", "weapon_hash"),
    on_conflict="ignore",
)

TABLES: Final = (INSTANCE, DESTINY_PLAYER, INSTANCE_PLAYER, INSTANCE_CHARACTER, INSTANCE_CHARACTER_WEAPON)
