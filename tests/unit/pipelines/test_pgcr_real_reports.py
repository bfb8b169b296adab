"""Real reports, each column compared with values that were read off the files by eye."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.table import BatchRows

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "pgcr"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real reports are not here")

ICONS = "/common/destiny2_content/icons/"


def utc(*parts: int) -> datetime.datetime:
    return datetime.datetime(*parts, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # the time's parts, in order


def line_of(name: str) -> bytes:
    return json.dumps(json.loads((FOLDER / f"{name}_pgcr.json").read_bytes()), separators=(",", ":")).encode()


def run(*lines: bytes) -> BatchRows:
    batch = pgcr.open(ChunkContext(7, 1, "pgcr.jsonl")).transform(lines, 1)
    assert (batch.rejected, batch.parts, batch.filtered, batch.blank) == ([], [], [], [])
    return batch


DATASET_STARTED = utc(2024, 12, 24, 7, 42, 52)
DATASET = [
    [
        (
            15780000000,
            239690206,
            239690206,
            2,
            [7, 2],
            False,
            0,
            DATASET_STARTED,
            utc(2024, 12, 24, 7, 43, 51),
            59,
            0,
            True,
            True,
            False,
            True,
            2,
        )
    ],
    [
        (
            4611686018452042657,
            1,
            "I Dont KWTD",
            "CestDuFromage",
            2193,
            ICONS + "2d2008bc02264d5e0b5aa0d92b4432aa.jpg",
            True,
            DATASET_STARTED,
        ),
        (
            4611686018467617686,
            3,
            "TTVCaptainFizik",
            "TTVCaptainFizik",
            2856,
            ICONS + "b1ec7a6b1b4065bae0d98d1fea3423ee.jpg",
            True,
            DATASET_STARTED,
        ),
    ],
    [(15780000000, 4611686018452042657, False, 23), (15780000000, 4611686018467617686, False, 27)],
    [
        (
            *(15780000000, 4611686018452042657, 2305843009264897923, 2271682572, 898834093, 3986958431, 1571, False),
            *(0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 23),
        ),
        (
            *(15780000000, 4611686018467617686, 2305843009301704202, 3655393761, 2803282938, 787024992, 1585, False),
            *(0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 27),
        ),
    ],
    [],
]

SOLO_STARTED = utc(2024, 1, 4, 0, 54, 26)
SOLO_KEY = (14287236297, 4611686018488107374, 2305843009468984093)
SOLO = [
    [
        (
            14287236297,
            2381413764,
            2381413764,
            4,
            [7, 4],
            False,
            3,
            SOLO_STARTED,
            utc(2024, 1, 4, 1, 47, 33),
            3187,
            0,
            True,
            True,
            True,
            True,
            1,
        )
    ],
    [(4611686018488107374, 3, "Newo", "Newo", 9010, ICONS + "31d09629d4761a859f86d232936a907d.jpg", True, SOLO_STARTED)],
    [(14287236297, 4611686018488107374, True, 3187)],
    [(*SOLO_KEY, 671679327, 898834093, 1918663075, 1827, True, 747, 0, 0, 747.0, 747.0, 747.0, 0, 123, 22, 202, 6, 0, 3187)],
    [
        (*SOLO_KEY, 3257091167, 6, 0, 0.0),
        (*SOLO_KEY, 2179048386, 29, 21, 0.72413793103448276),
        (*SOLO_KEY, 548958835, 5, 1, 0.2),
        (*SOLO_KEY, 1907698332, 42, 10, 0.23809523809523808),
        (*SOLO_KEY, 2907129557, 207, 30, 0.14492753623188406),
        (*SOLO_KEY, 4248569242, 26, 17, 0.65384615384615385),
        (*SOLO_KEY, 4190156464, 7, 0, 0.0),
        (*SOLO_KEY, 1851777734, 2, 0, 0.0),
        (*SOLO_KEY, 3886416794, 9, 1, 0.1111111111111111),
        (*SOLO_KEY, 46524085, 10, 1, 0.1),
        (*SOLO_KEY, 3524313097, 2, 0, 0.0),
        (*SOLO_KEY, 268260372, 1, 0, 0.0),
    ],
]

DUO_STARTED = utc(2021, 8, 2, 16, 5, 28)
DUO_A = (8919920769, 4611686018440744095, 2305843009263810796)
DUO_B = (8919920769, 4611686018438898351, 2305843009469285034)
DUO = [  # between two releases, so that nobody knows whether it was fresh
    [(8919920769, 3458480158, 3458480158, 4, [7, 4], False, 3, DUO_STARTED, utc(2021, 8, 2, 16, 32), 1592, 0, False, None, True, False, 2)],
    [
        (4611686018440744095, 1, "Ceriumz", "Ceriumz", 1527, ICONS + "b138b34d13fb5170e5a7e6301f5d9dbb.jpg", True, DUO_STARTED),
        (4611686018438898351, 2, "fiftytwoandone", "Fifty", 6134, ICONS + "27e7282a7cbc6ca2d545e247ce747115.jpg", True, DUO_STARTED),
    ],
    [(8919920769, 4611686018440744095, True, 1592), (8919920769, 4611686018438898351, True, 1588)],
    [
        (*DUO_A, 2271682572, 2803282938, 1230660645, 1264, True, 299, 2, 14, 153.0, 149.5, 156.5, 0, 83, 2, 6, 17, 0, 1592),
        (*DUO_B, 2271682572, 2803282938, 148664963, 1280, True, 378, 2, 10, 191.5, 189.0, 194.0, 0, 26, 5, 2, 3, 0, 1588),
    ],
    [
        (*DUO_A, 4023807721, 221, 78, 0.35294117647058826),
        (*DUO_A, 578459533, 48, 0, 0.0),
        (*DUO_A, 3211806999, 4, 4, 1.0),
        (*DUO_B, 814876685, 147, 5, 0.034013605442176874),
        (*DUO_B, 2990047042, 17, 16, 0.94117647058823528),
        (*DUO_B, 578459533, 5, 0, 0.0),
        (*DUO_B, 2222560548, 10, 1, 0.1),
        (*DUO_B, 3211806999, 3, 3, 1.0),
    ],
]


@pytest.mark.parametrize(("name", "expected"), [("dataset", DATASET), ("solo_flawless", SOLO), ("duo", DUO)])
def test_every_column_of_a_real_report(name: str, expected: list[list[tuple[Any, ...]]]) -> None:
    batch = run(line_of(name))
    assert [table.rows for table in batch.tables] == expected
    for table, rows in zip(pgcr.tables, expected, strict=True):
        assert all(len(row) == len(table.columns) for row in rows)


@pytest.mark.parametrize("name", ["solo_flawless", "duo"])
def test_a_real_report_without_its_envelope_gives_the_same_rows(name: str) -> None:
    bare = json.dumps(json.loads(line_of(name))["Response"]).encode()
    assert [table.rows for table in run(bare).tables] == [table.rows for table in run(line_of(name)).tables]


def test_a_player_with_three_characters_is_one_player() -> None:
    batch = run(line_of("pre_beyond_light_fresh"))
    rows = {row[1]: row for row in batch.tables[2].rows}
    assert rows[4611686018463059026] == (6870306963, 4611686018463059026, True, 857 + 3184 + 98)
    assert len(batch.tables[3].rows) == 8
    assert len(batch.tables[1].rows) == 6
    [instance] = batch.tables[0].rows
    assert instance[12] is True  # Scourge of the Past from phase 0, before 2020-11-10: fresh whatever the flag says


def test_all_real_reports_load_in_one_file() -> None:
    names = sorted(path.name.removesuffix("_pgcr.json") for path in FOLDER.glob("*_pgcr.json"))
    batch = run(*[line_of(name) for name in names])
    assert len(batch.tables[0].rows) == len(names)
