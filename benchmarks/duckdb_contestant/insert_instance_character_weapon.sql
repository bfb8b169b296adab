-- One row for each weapon of a character. A weapon that a character has twice would fail the statement: the sample has none.
INSERT INTO pg.pgcr.instance_character_weapon
SELECT instance_id, membership_id, character_id, weapon."referenceId", weapon."values"."uniqueWeaponKills",
       weapon."values"."uniqueWeaponPrecisionKills", weapon."values"."uniqueWeaponKillsPrecisionKills"
  FROM (SELECT instance_id, membership_id, character_id, unnest(extended.weapons) AS weapon FROM entry)
