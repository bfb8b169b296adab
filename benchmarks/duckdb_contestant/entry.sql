-- One row for each player's character in a report; of two with the same key the last. What has no key is left out.
CREATE TABLE entry AS
SELECT instance_id, started_at, entry.player."destinyUserInfo"."membershipId" AS membership_id, entry."characterId" AS character_id,
       entry.player AS player, entry."values" AS counts, entry.extended AS extended
  FROM (SELECT details."instanceId" AS instance_id, period AS started_at, unnest(entries) AS entry, generate_subscripts(entries, 1) AS place
          FROM report)
 WHERE membership_id IS NOT NULL AND character_id IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY instance_id, membership_id, character_id ORDER BY place DESC) = 1
