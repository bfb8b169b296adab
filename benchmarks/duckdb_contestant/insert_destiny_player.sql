-- One row for each player, as the newest report has it. NUL is taken out of names, where Protheon rejects the line.
INSERT INTO pg.pgcr.destiny_player
SELECT membership_id, newest."membershipType", replace(newest."displayName", chr(0), ''),
       replace(newest."bungieGlobalDisplayName", chr(0), ''), newest."bungieGlobalDisplayNameCode", newest."iconPath",
       newest."isPublic", last_seen
  FROM (SELECT membership_id, arg_max(player."destinyUserInfo", started_at) AS newest, max(started_at) AS last_seen
          FROM entry
         GROUP BY membership_id)
