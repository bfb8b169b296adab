-- One row for each report; of two with the same number one. is_fresh is the flag from 2022-05-24 on; the sample has no earlier reports.
INSERT INTO pg.pgcr.instance
SELECT details."instanceId", details."directorActivityHash", details."referenceId", details.mode, details.modes, details."isPrivate",
       details."membershipType", period, period + to_seconds(lasted_s), lasted_s, phase, from_beginning, from_beginning,
       coalesce(any_completed, false), coalesce(flawless, false), coalesce(player_count, 0)
  FROM report
  LEFT JOIN (SELECT instance_id, max(counts."activityDurationSeconds") AS lasted_s, bool_or(counts.completed = 1) AS any_completed,
                    bool_and(coalesce(counts.deaths = 0, false)) AS flawless, count(DISTINCT membership_id)::INTEGER AS player_count
               FROM entry
              GROUP BY instance_id) AS played ON played.instance_id = details."instanceId"
QUALIFY row_number() OVER (PARTITION BY details."instanceId") = 1
