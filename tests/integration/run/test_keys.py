"""The cluster's key: made whole or not at all, since by an empty one anybody could sign."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protheon_dask.errors import MissingSetting
from protheon_dask.run.trust.keys import KEY_BYTES, KEY_FILE, make_key, read_key


def test_callers_at_once_get_one_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: read_key(make_key(tmp_path)), range(8)))
    assert [len(key) for key in keys] == [KEY_BYTES]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_a_file_that_a_full_disk_left_empty_is_no_key_and_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).touch()
    with pytest.raises(MissingSetting, match="damaged"):
        read_key(tmp_path / KEY_FILE)
    assert len(read_key(make_key(tmp_path))) == KEY_BYTES


@pytest.mark.parametrize("text", ["ab" * (KEY_BYTES - 1), "no hex"])
def test_a_part_of_a_key_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_FILE).write_text(text)
    with pytest.raises(MissingSetting) as told:
        read_key(make_key(tmp_path))
    assert text not in str(told.value)
    assert (tmp_path / KEY_FILE).read_text() == text
