-- Params: source text, a path of JSON lines.
-- The columns that the five tables need, of all lines. What is no JSON becomes a row of nulls (ignore_errors) and is left out;
-- a single value of a wrong type becomes null, where Protheon rejects the line.
CREATE TABLE report AS
SELECT "activityDetails" AS details, period, "startingPhaseIndex" AS phase, "activityWasStartedFromBeginning" AS from_beginning, entries
  FROM read_json(
       $source,
       format = 'newline_delimited',
       ignore_errors = true,
       columns = {
           'period': 'TIMESTAMPTZ',
           'startingPhaseIndex': 'INTEGER',
           'activityWasStartedFromBeginning': 'BOOLEAN',
           'activityDetails': 'STRUCT("instanceId" BIGINT, "directorActivityHash" BIGINT, "referenceId" BIGINT, mode INTEGER, modes INTEGER[],
                                      "isPrivate" BOOLEAN, "membershipType" INTEGER)',
           'entries': 'STRUCT(
               player STRUCT(
                   "destinyUserInfo" STRUCT("membershipId" BIGINT, "membershipType" INTEGER, "displayName" VARCHAR,
                                            "bungieGlobalDisplayName" VARCHAR, "bungieGlobalDisplayNameCode" INTEGER,
                                            "iconPath" VARCHAR, "isPublic" BOOLEAN),
                   "classHash" BIGINT, "raceHash" BIGINT, "emblemHash" BIGINT, "lightLevel" INTEGER),
               "characterId" BIGINT,
               "values" STRUCT(completed INTEGER, kills INTEGER, deaths INTEGER, assists INTEGER, "killsDeathsAssists" DOUBLE,
                               "killsDeathsRatio" DOUBLE, efficiency DOUBLE, score INTEGER, "activityDurationSeconds" INTEGER,
                               "timePlayedSeconds" INTEGER),
               extended STRUCT(
                   weapons STRUCT("referenceId" BIGINT,
                                  "values" STRUCT("uniqueWeaponKills" INTEGER, "uniqueWeaponPrecisionKills" INTEGER,
                                                  "uniqueWeaponKillsPrecisionKills" DOUBLE))[],
                   "values" STRUCT("precisionKills" INTEGER, "weaponKillsSuper" INTEGER, "weaponKillsMelee" INTEGER,
                                   "weaponKillsGrenade" INTEGER, "weaponKillsAbility" INTEGER)))[]'
       })
 WHERE "activityDetails"."instanceId" IS NOT NULL AND period IS NOT NULL
