"""Made-up post game carnage reports that look like real ones: for the demo, for tests and for measurements."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final, Literal

import msgspec
import zstandard

from protheon_dask import words
from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.jsonl import COMPRESSION_SUFFIXES

Shape = Literal["dump", "api", "mixed"]

N_PLAYERS: Final = 200_000
"""How many players there are; the u^3 draw below makes the first of 400,000 lines' 1.8 million appearances 1.7 %."""
FIRST_INSTANCE_ID: Final = 15_780_000_000
IDS_A_SEED: Final = 100_000_000
"""Each seed has instance ids of its own, for some 50 million lines: a second sample is other reports, not the same ones changed."""
N_ID_RANGES: Final = 10_000
"""Seeds this far apart share a range: ids stay within bigint whatever the seed."""
FIRST_PERIOD: Final = datetime(2024, 12, 24, 7, 42, 52, tzinfo=UTC)
FIRST_MEMBERSHIP_ID: Final = 4_611_686_018_430_000_000
FIRST_CHARACTER_ID: Final = 2_305_843_009_260_000_000
WRITE_BYTES: Final = 1 << 20
"""Lines are given to the compressor in pieces of about this size: a call a line would cost more than the line."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that pgcr rejects, and why it was made so."""

    line_no: int  # from 1
    kind: str


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What was written. Of n_lines len(bad) are bad; the others have n_entries entries and n_weapons weapons."""

    path: Path
    n_lines: int
    raw_bytes: int
    stored_bytes: int
    n_entries: int
    n_weapons: int
    bad: tuple[BadLine, ...]

    def __str__(self) -> str:
        sizes = f"{words.size(self.raw_bytes)} of JSON in {words.size(self.stored_bytes)}"
        return f"{self.path}: {words.counted(self.n_lines, 'line')}, {len(self.bad)} of them bad; {sizes}"


def write_sample(out_path: str | Path, n_lines: int, seed: int = 1, shape: Shape = "dump", n_bad: int = 0) -> SampleReport:
    """Write n_lines reports, compressed as the name's suffix says (.zst, .gz, or plain).

    Shapes:     "dump" flat numbers, 5 to 8 KB a line on average; "api" wrapped numbers, twice as much; "mixed" every third line
                as the API has it. Instance ids are unique and rise; players recur, few of them often.
    Raises:     ConfigError: the suffix names a compression that is not written, or a number makes no sense.
    Guarantee:  the same arguments give the same raw bytes. The file appears whole or not at all.
    """
    path = Path(out_path)
    if n_lines < 1 or not 0 <= n_bad <= n_lines:
        raise ConfigError(f"a sample has at least one line and at most as many bad ones, not {n_lines} and {n_bad}")
    if path.suffix in COMPRESSION_SUFFIXES - {".zst", ".gz"}:
        raise ConfigError(f"{path.name}: samples are written as .zst, .gz or plain")
    maker = _Maker(seed, shape)
    bad = {1 + (2 * i + 1) * n_lines // (2 * n_bad): BAD_KINDS[i % len(BAD_KINDS)] for i in range(n_bad)}
    part = path.with_name(path.name + ".part")
    raw_bytes = 0
    pending: list[bytes] = []
    pending_bytes = 0
    with ExitStack() as stack:
        out = _open(part, path.suffix, stack)
        for line_no in range(1, n_lines + 1):
            line = maker.line(line_no, bad.get(line_no))
            pending.append(line)
            pending_bytes += len(line) + 1
            if pending_bytes >= WRITE_BYTES or line_no == n_lines:
                pending.append(b"")
                out.write(b"\n".join(pending))
                raw_bytes += pending_bytes
                pending, pending_bytes = [], 0
    part.replace(path)
    stored_bytes = path.stat().st_size
    listed = tuple(BadLine(line_no, kind) for line_no, (kind, _) in sorted(bad.items()))
    return SampleReport(path, n_lines, raw_bytes, stored_bytes, maker.n_entries, maker.n_weapons, listed)


def sample_lines(n_lines: int, seed: int = 1, shape: Shape = "dump") -> Iterator[bytes]:
    """Give the lines that write_sample would write, without LF."""
    maker = _Maker(seed, shape)
    return (maker.line(line_no, None) for line_no in range(1, n_lines + 1))


def _open(path: Path, suffix: str, stack: ExitStack) -> IO[bytes] | gzip.GzipFile:
    file = stack.enter_context(path.open("wb"))
    if suffix == ".zst":
        return stack.enter_context(zstandard.ZstdCompressor(level=3, threads=0).stream_writer(file, closefd=False))
    if suffix == ".gz":
        return stack.enter_context(gzip.GzipFile(filename="", mode="wb", compresslevel=3, fileobj=file, mtime=0))
    return file


_PERIODS_S: Final = 1.7  # seconds from one report to the next; about 50,000 reports a day

_REPORT: Final = (
    b'{"_id":"%d","archived":"%s.000Z","period":"%s.000Z","startingPhaseIndex":%d,"activityWasStartedFromBeginning":%s,'
    b'"activityDetails":{"referenceId":%d,"directorActivityHash":%d,"instanceId":"%d","mode":%d,"modes":[7,%d],"isPrivate":false,'
    b'"membershipType":%d},"entries":[%s],"teams":[]}'
)
_ENTRY: Final = (
    b'{"standing":0,"score":%d,"player":{"destinyUserInfo":{"iconPath":"/common/destiny2_content/icons/%s.jpg","crossSaveOverride":%d,'
    b'"applicableMembershipTypes":[3,%d],"isPublic":%s,"membershipType":%d,"membershipId":"%d","displayName":"%s",'
    b'"bungieGlobalDisplayName":"%s","bungieGlobalDisplayNameCode":%d},"characterClass":"%s","classHash":%d,"raceHash":%d,'
    b'"genderHash":3111576190,"characterLevel":50,"lightLevel":%d,"emblemHash":%d},"characterId":"%d","values":{"assists":%d,'
    b'"completed":%d,"deaths":%d,"kills":%d,"opponentsDefeated":%d,"efficiency":%s,"killsDeathsRatio":%s,"killsDeathsAssists":%s,'
    b'"score":%d,"activityDurationSeconds":%d,"completionReason":%d,"fireteamId":%d,"startSeconds":%d,"timePlayedSeconds":%d,'
    b'"playerCount":%d,"teamScore":0},"extended":{%s"values":{"precisionKills":%d,"weaponKillsGrenade":%d,"weaponKillsMelee":%d,'
    b'"weaponKillsSuper":%d,"weaponKillsAbility":%d}}}'
)
_WEAPON: Final = (
    b'{"referenceId":%d,"values":{"uniqueWeaponKills":%d,"uniqueWeaponPrecisionKills":%d,"uniqueWeaponKillsPrecisionKills":%s}}'
)
_CLASSES: Final = ((b"Titan", 3655393761), (b"Hunter", 671679327), (b"Warlock", 2271682572))
_RACES: Final = (898834093, 2803282938, 3887404748)
_NAMES: Final = (b"Newo", b"Cayde", b"I Dont KWTD", b"TTVCaptain", b"\xc3\x89toile", b"\xe6\x98\x9f", b"Drifter\\u0027s", b"xX_Vex_Xx")
_ACTIVITIES: Final = ((239690206, 2), (2381413764, 4), (3881495763, 4), (1441982566, 4), (910380154, 4))
_N_ENTRIES: Final = (1, 2, 3, 3, 4, 5, 6, 6, 6, 6)


class _Maker:
    """Draws one report after the other; every draw comes from one generator, so that the seed says it all."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self._random = random.Random(seed).random
        self._shape = shape
        self._instance_id = FIRST_INSTANCE_ID + (seed - 1) % N_ID_RANGES * IDS_A_SEED
        self.n_entries = self.n_weapons = 0

    def line(self, line_no: int, bad: _BadKind | None) -> bytes:
        entries_before, weapons_before = self.n_entries, self.n_weapons
        line = self._report(line_no)
        if self._shape == "api" or (self._shape == "mixed" and line_no % 3 == 0):
            line = as_api(line)
        if bad is not None:
            self.n_entries, self.n_weapons = entries_before, weapons_before
            line = bad[1](line)
        return line

    def _report(self, line_no: int) -> bytes:
        draw = self._random
        self._instance_id += 1 + int(draw() * 3)
        period = FIRST_PERIOD + timedelta(seconds=int(line_no * _PERIODS_S))
        duration_s = 300 + int(draw() * draw() * 6000)
        started, archived = (at.strftime("%Y-%m-%dT%H:%M:%S").encode() for at in (period, period + timedelta(seconds=duration_s + 40)))
        activity, mode = _ACTIVITIES[int(draw() * len(_ACTIVITIES))]
        n_players = _N_ENTRIES[int(draw() * len(_N_ENTRIES))]
        chosen: dict[int, None] = {}
        while len(chosen) < n_players:
            chosen[int(N_PLAYERS * draw() ** 3)] = None
        characters = [(player, int(draw() * 3)) for player in chosen]
        if draw() < 0.03:  # one of them changes to another character
            player, character = characters[0]
            characters.append((player, (character + 1) % 3))
        fresh = draw() < 0.8
        entries = [self._entry(player, character, duration_s, len(characters)) for player, character in characters]
        return _REPORT % (
            *(self._instance_id, archived, started, 0 if fresh else 1, b"true" if fresh else b"false"),
            *(activity, activity, self._instance_id, mode, mode, 3, b",".join(entries)),
        )

    def _entry(self, player: int, character: int, duration_s: int, n_entries: int) -> bytes:
        draw = self._random
        self.n_entries += 1
        mixed = player * 2654435761 & 0xFFFFFFFF  # Knuth's multiplier: what is a player's own, spread without a table
        platform = 1 + mixed % 3
        name = _NAMES[mixed % len(_NAMES)] + b"%d" % player
        class_name, class_hash = _CLASSES[character]
        n_weapons = int(draw() * 7)
        kills = precision = 0
        weapons = []
        for i in range(n_weapons):
            w_kills = 1 + int(draw() * draw() * 60)
            w_precision = int(draw() * w_kills)
            kills += w_kills
            precision += w_precision
            hash_ = 1_000_000_000 + (mixed // 7 + i * 613) % 900 * 2_718_281
            weapons.append(_WEAPON % (hash_, w_kills, w_precision, _number(w_precision / w_kills)))
        self.n_weapons += n_weapons
        grenade, melee, supers = (int(draw() * 12) for _ in range(3))
        kills += grenade + melee + supers
        deaths, assists = int(draw() * draw() * 12), int(draw() * 30)
        lives = deaths or 1
        played_s = duration_s - int(draw() * draw() * duration_s)
        completed = draw() < 0.7
        return _ENTRY % (
            *(0, b"%08x%08x%016x" % (mixed, mixed ^ 0x5BD1E995, mixed * 0x1B873593), platform, platform),
            *(b"false" if mixed % 50 == 0 else b"true", platform, FIRST_MEMBERSHIP_ID + player * 37, name, name, 1 + mixed % 9999),
            *(class_name, class_hash, _RACES[mixed % 3], 1500 + mixed % 500, 1_000_000_000 + mixed % 500 * 6_000_011),
            *(FIRST_CHARACTER_ID + player * 111 + character, assists, completed, deaths, kills, kills + assists),
            *(_number((kills + assists) / lives), _number(kills / lives), _number((kills + assists / 2) / lives)),
            *(0, duration_s, 0 if completed else 255, mixed * 2_000_003, duration_s - played_s, played_s, n_entries),
            *(b'"weapons":[%s],' % b",".join(weapons) if weapons else b"", precision, grenade, melee, supers, 0),
        )


def _number(value: float) -> bytes:
    return b"%d" % value if value.is_integer() else repr(value).encode()


def as_api(line: bytes) -> bytes:
    """Turn a report of the dump into the API's answer: wrapped, each value with its display text."""
    report = msgspec.json.decode(line)
    del report["_id"], report["archived"]
    for entry in report["entries"]:
        entry["score"] = _wrap(entry["score"])
        entry["values"] = {name: _wrap(value) for name, value in entry["values"].items()}
        extended = entry["extended"]
        extended["values"] = {name: _wrap(value) for name, value in extended["values"].items()}
        for weapon in extended.get("weapons", ()):
            weapon["values"] = {name: _wrap(value) for name, value in weapon["values"].items()}
    answer = {"Response": report, "ErrorCode": 1, "ThrottleSeconds": 0, "ErrorStatus": "Success", "Message": "Ok", "MessageData": {}}
    return msgspec.json.encode(answer)


def _wrap(value: float) -> dict[str, Any]:
    return {"basic": {"value": float(value), "displayValue": f"{value:g}"}}


_BadKind = tuple[str, Callable[[bytes], bytes]]

BAD_KINDS: Final[tuple[_BadKind, ...]] = (
    ("broken JSON", lambda line: line[: len(line) // 2]),
    ("wrong type", lambda line: line.replace(b'"classHash":', b'"classHash":"hunter","was":', 1)),
    ("invalid UTF-8", lambda line: line.replace(b'"displayName":"', b'"displayName":"\xff\xfe', 1)),
    ("out of range", lambda line: line.replace(b'"lightLevel":', b'"lightLevel":9999999', 1)),
    ("no instance", lambda line: line.replace(b'"instanceId":', b'"instance":', 1)),
    # in each name: of a player with two characters only the last entry's is looked at
    ("NUL in a name", lambda line: line.replace(b'"displayName":"', b'"displayName":"\\u0000')),
)
