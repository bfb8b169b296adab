-- One row for each character.
INSERT INTO pg.pgcr.instance_character
SELECT instance_id, membership_id, character_id, player."classHash", player."raceHash", player."emblemHash", player."lightLevel",
       coalesce(counts.completed = 1, false), counts.kills, counts.deaths, counts.assists, counts."killsDeathsAssists",
       counts."killsDeathsRatio", counts.efficiency, counts.score, extended."values"."precisionKills",
       extended."values"."weaponKillsSuper", extended."values"."weaponKillsMelee", extended."values"."weaponKillsGrenade",
       extended."values"."weaponKillsAbility", counts."timePlayedSeconds"
  FROM entry
