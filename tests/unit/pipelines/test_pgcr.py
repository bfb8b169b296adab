"""Post game carnage reports, made up: shapes, verdicts and rules."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from protheon_dask.pipelines.pgcr import LEVIATHAN, SCOURGE_OF_THE_PAST, pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.sample import as_api
from protheon_dask.pipelines.table import BatchRows, Verdict

INSTANCE, DESTINY_PLAYER, INSTANCE_PLAYER, CHARACTER, WEAPON = range(5)


def run(*lines: bytes) -> BatchRows:
    batch = pgcr.open(ChunkContext(7, 1, "pgcr.jsonl")).transform(lines, range(1, len(lines) + 1))
    assert all(len(table.ends) == len(lines) for table in batch.tables)
    return batch


def column(batch: BatchRows, table: int, name: str) -> list[Any]:
    place = [c.name for c in pgcr.tables[table].columns].index(name)
    return [row[place] for row in batch.tables[table].rows]


def entry(player: int | None = 1, character: int | None = 11, **values: Any) -> dict[str, Any]:
    info: dict[str, Any] = {"membershipType": 3, "displayName": f"p{player}"}
    if player is not None:
        info["membershipId"] = str(player)
    made: dict[str, Any] = {
        "standing": 0,
        "score": 0,
        "player": {"destinyUserInfo": info, "classHash": 5, "lightLevel": 1500},
        "values": {"kills": 2, "deaths": 1, "completed": 1, "activityDurationSeconds": 60, "timePlayedSeconds": 50, **values},
        "extended": {"values": {"precisionKills": 1}},
    }
    if character is not None:
        made["characterId"] = str(character)
    return made


def report(*entries: dict[str, Any], period: str = "2024-12-24T07:42:52Z", activity: int = 9, **more: Any) -> dict[str, Any]:
    details = {"instanceId": "100", "directorActivityHash": activity, "modes": [7, 4]}
    return {
        "_id": "100",
        "archived": "2024-12-24T08:00:00.000Z",
        "period": period,
        "activityDetails": details,
        "entries": list(entries),
        **more,
    }


def dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def test_five_tables_each_column_commented() -> None:
    assert [(t.name, t.primary_key, t.on_conflict, t.newer_by, t.shared) for t in pgcr.tables] == [
        ("pgcr.instance", ("instance_id",), "ignore", None, False),
        ("pgcr.destiny_player", ("membership_id",), "update", "last_seen", True),
        ("pgcr.instance_player", ("instance_id", "membership_id"), "ignore", None, False),
        ("pgcr.instance_character", ("instance_id", "membership_id", "character_id"), "ignore", None, False),
        ("pgcr.instance_character_weapon", ("instance_id", "membership_id", "character_id", "weapon_hash"), "ignore", None, False),
    ]
    assert all(table.comment and all(c.comment for c in table.columns) for table in pgcr.tables)
    assert not any(table.foreign_keys for table in pgcr.tables)


def test_both_shapes_wrapped_or_bare_mixed_in_one_file_give_the_same_rows() -> None:
    flat = dump(report(entry(), entry(2, 12, efficiency=1.5)))
    api = as_api(flat)
    bare = dump(json.loads(api)["Response"])
    wrapped_flat = dump({"ErrorCode": 1, "Response": json.loads(flat)})
    late = dump({"ErrorCode": 1, **json.loads(api)})
    spaced = json.dumps(json.loads(api), indent=1).replace("\n", " ").encode()
    batch = run(flat, api, bare, wrapped_flat, late, spaced, flat)
    assert not batch.rejected
    for table in batch.tables:
        whole = [table.of_lines(i, i + 1) for i in range(7)]
        assert all(rows == whole[0] for rows in whole)
    assert column(batch, CHARACTER, "efficiency")[:2] == [None, 1.5]


def test_an_instance_without_entries() -> None:
    for entries in ({"entries": []}, {"entries": None}, {}):
        document = report()
        del document["entries"]
        batch = run(dump({**document, **entries}))
        [row] = batch.tables[INSTANCE].rows
        names = [c.name for c in pgcr.tables[INSTANCE].columns]
        values = dict(zip(names, row, strict=True))
        wanted = {"ended_at": None, "duration_seconds": None, "completed": False, "flawless": False, "player_count": 0}
        assert {name: values[name] for name in wanted} == wanted
        assert all(not table.rows for table in batch.tables[1:])


@pytest.mark.parametrize("extended", [None, {}, {"weapons": None, "values": None}, {"weapons": []}])
def test_extended_and_weapons_may_be_missing_null_or_empty(extended: Any) -> None:
    one = entry()
    one["extended"] = extended
    bare = entry()
    del bare["extended"]
    for made in (one, bare):
        batch = run(dump(report(made)))
        assert column(batch, CHARACTER, "precision_kills") == [None]
        assert batch.tables[WEAPON].rows == []


def test_an_entry_without_a_key_is_refused_alone_and_the_instance_is_computed_without_it() -> None:
    keyless = entry(None, 12, deaths=0, activityDurationSeconds=900)
    batch = run(dump(report(entry(deaths=0), keyless, entry(2, None), {"values": {"deaths": 3}})))
    assert batch.parts == [
        Verdict(0, "membershipId is missing", "entries[1]"),
        Verdict(0, "characterId is missing", "entries[2]"),
        Verdict(0, "membershipId is missing", "entries[3]"),
    ]
    assert batch.rejected == []
    assert column(batch, INSTANCE, "duration_seconds") == [60]
    assert column(batch, INSTANCE, "flawless") == [True]
    assert column(batch, INSTANCE, "player_count") == [1]


def test_one_player_with_several_characters_and_of_the_same_one_the_last() -> None:
    batch = run(
        dump(
            report(
                entry(1, 11, completed=0, timePlayedSeconds=1, kills=1),
                entry(1, 12, completed=1, timePlayedSeconds=10, kills=2),
                entry(1, 11, completed=0, timePlayedSeconds=100, kills=3, activityDurationSeconds=61),
                entry(2, 13, completed=0, timePlayedSeconds=7, kills=4),
            )
        )
    )
    assert batch.tables[INSTANCE_PLAYER].rows == [(100, 1, True, 110), (100, 2, False, 7)]
    assert [row[:3] for row in batch.tables[CHARACTER].rows] == [(100, 1, 12), (100, 1, 11), (100, 2, 13)]
    assert column(batch, CHARACTER, "kills") == [2, 3, 4]
    assert column(batch, INSTANCE, "player_count") == [2]
    assert column(batch, INSTANCE, "duration_seconds") == [61]
    assert column(batch, DESTINY_PLAYER, "membership_id") == [1, 2]


def test_of_two_weapons_with_one_hash_the_last_is_kept_and_values_may_be_missing() -> None:
    one = entry()
    counts = {"uniqueWeaponKills": 3, "uniqueWeaponPrecisionKills": 1, "uniqueWeaponKillsPrecisionKills": 0.5}
    one["extended"]["weapons"] = [
        {"referenceId": 8, "values": {"uniqueWeaponKills": 9}},
        {"referenceId": 9},
        {"referenceId": 8, "values": counts},
    ]
    assert run(dump(report(one))).tables[WEAPON].rows == [(100, 1, 11, 8, 3, 1, 0.5), (100, 1, 11, 9, None, None, None)]


FRESH = [
    ("2022-05-24T17:00:00Z", 9, None, True, 1, True),
    ("2022-05-24T17:00:00Z", 9, 0, False, 0, False),
    ("2024-01-01T00:00:00Z", 9, 0, None, 0, None),
    ("2022-05-24T16:59:59Z", 9, 0, True, 1, True),
    ("2022-05-24T16:59:59Z", 9, 0, False, 0, True),
    ("2022-02-22T17:00:00Z", 9, 0, None, 0, True),
    ("2022-02-22T17:00:00Z", 9, 0, False, 1, None),
    ("2022-02-22T16:59:59Z", 9, 0, True, 0, None),
    ("2020-11-10T17:00:00Z", 9, 0, True, 0, None),
    ("2020-11-10T16:59:59Z", 9, 0, False, 1, True),
    ("2020-11-10T16:59:59Z", 9, 1, True, 0, False),
    ("2020-11-10T16:59:59Z", 9, None, True, 0, None),
    ("2019-01-01T00:00:00Z", 548750096, 1, False, 1, True),
    ("2019-01-01T00:00:00Z", 2812525063, 2, False, 1, False),
    ("2019-01-01T00:00:00Z", 2693136603, 2, False, 1, True),
    ("2019-01-01T00:00:00Z", 3857338478, 0, False, 1, True),
    ("2019-01-01T00:00:00Z", 89727599, 1, False, 1, False),
]


@pytest.mark.parametrize(("period", "activity", "phase", "flag", "deaths", "fresh"), FRESH)
def test_is_fresh_by_date_activity_phase_and_flag(
    period: str, activity: int, phase: int | None, flag: bool | None, deaths: int, fresh: bool | None
) -> None:
    more = {"startingPhaseIndex": phase, "activityWasStartedFromBeginning": flag}
    batch = run(dump(report(entry(deaths=deaths), period=period, activity=activity, **more)))
    assert column(batch, INSTANCE, "is_fresh") == [fresh]
    assert column(batch, INSTANCE, "from_beginning") == [flag]


def test_the_raids_that_began_elsewhere_are_all_known() -> None:
    assert (len(SCOURGE_OF_THE_PAST), len(LEVIATHAN)) == (2, 24)


def changed(**values: Any) -> bytes:
    return dump(report(entry(**values)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Input data was truncated"),
        (b'{"Response":null}', "Expected `object`, got `null`"),
        (b'{"ErrorCode":1653,"Message":"not found"}', "Object missing required field `period`"),
        (changed(kills="many"), "Expected `int | null`, got `str` - at `$.entries[0].values.kills`"),
        (
            as_api(changed(kills=1)).replace(b'"kills":{"basic":{"value":1.0', b'"kills":{"basic":{"value":1.5'),
            "Expected `int | null`, got `float`",
        ),
        (changed(kills=2**31), "Expected `int` <= 2147483647"),
        (dump(report(entry(2**63))), "Expected `int` <= 9223372036854775807"),
        (dump(report(period="2024-12-24")), "Invalid RFC3339 encoded datetime"),
        (dump(report(entry(), period="9999-12-31T23:59:59Z")), "period plus 60 seconds is no time"),
        (dump(report(entry(1, 1, timePlayedSeconds=2**31 - 1), entry(1, 2))), "time_played_seconds of a player's characters add up"),
        (dump(report(entry())).replace(b'"p1"', b'"\\u0000"'), "\\u0000 in a text of player 1"),
        (dump(report(entry())).replace(b'"p1"', b'"\xff"'), "not UTF-8"),
        (b"[" * 100_000, "Expected `object`, got `array`"),
        (b'{"x":' + b"[" * 100_000, "JSON is nested too deeply"),
    ],
)
def test_a_bad_line_is_refused_alone(line: bytes, reason: str) -> None:
    batch = run(dump(report(entry())), line, b" \r", dump(report(entry())))
    [verdict] = batch.rejected
    assert verdict.index == 1
    assert verdict.reason.startswith(reason)
    assert batch.blank == [2]
    assert [table.ends for table in batch.tables[:4]] == [[1, 1, 1, 2]] * 4


def test_times_are_aware_whatever_their_offset() -> None:
    batch = run(dump(report(entry(), period="2024-12-24T09:42:52+02:00")))
    assert column(batch, INSTANCE, "started_at") == [datetime.datetime(2024, 12, 24, 7, 42, 52, tzinfo=datetime.UTC)]
    assert column(batch, INSTANCE, "ended_at") == [datetime.datetime(2024, 12, 24, 7, 43, 52, tzinfo=datetime.UTC)]
    assert column(batch, DESTINY_PLAYER, "last_seen") == column(batch, INSTANCE, "started_at")


def test_a_line_of_46_mb_with_thousands_of_entries_is_one_line() -> None:
    one = entry()
    one["extended"]["weapons"] = [
        {"referenceId": w, "values": {"uniqueWeaponKills": w, "uniqueWeaponPrecisionKills": 0}} for w in range(20)
    ]
    middle = dump(one)
    n_entries = 46_000_000 // len(middle) + 1
    document = dump(report())
    entries = b",".join(middle.replace(b'"membershipId":"1"', b'"membershipId":"%d"' % i, 1) for i in range(n_entries))
    line = document.replace(b'"entries":[]', b'"entries":[%s]' % entries)
    assert len(line) >= 46_000_000
    for shape in (line, b'{"Response":%s}' % line):
        batch = run(shape)
        assert batch.rejected == []
        assert column(batch, INSTANCE, "player_count") == [n_entries]
        assert [len(table.rows) for table in batch.tables] == [1, n_entries, n_entries, n_entries, 20 * n_entries]
