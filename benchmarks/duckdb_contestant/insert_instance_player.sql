-- One row for each player of a report, all characters together.
INSERT INTO pg.pgcr.instance_player
SELECT instance_id, membership_id, coalesce(bool_or(counts.completed = 1), false), sum(counts."timePlayedSeconds")::INTEGER
  FROM entry
 GROUP BY instance_id, membership_id
