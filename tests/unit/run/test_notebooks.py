"""Copies of the notebooks: made, renewed while nobody has changed them, and never written over afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from protheon_dask.errors import ConfigError
from protheon_dask.run.notebooks import RECORD, copy_notebooks, shipped


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "package"
    made.mkdir()
    (made / "01_one.ipynb").write_text("one, as it was")
    (made / "02_two.ipynb").write_text("two, as it was")
    (made / "notes.txt").write_text("no notebook")
    return made


def test_the_package_has_notebooks_in_their_order() -> None:
    assert [path.name[:3] for path in shipped()][:4] == ["01_", "02_", "03_", "04_"]


def test_the_first_copy_makes_the_directory_and_the_second_changes_nothing(source: Path, tmp_path: Path) -> None:
    first = copy_notebooks(tmp_path / "a" / "b", (tmp_path / "none", source))
    assert first.new == first.names == ("01_one.ipynb", "02_two.ipynb")
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {*first.names, RECORD}
    again = copy_notebooks(tmp_path / "a" / "b", (source,))
    assert (again.new, again.renewed, again.kept) == ((), (), ())
    assert again.names == first.names


def test_a_newer_package_renews_what_nobody_changed_and_keeps_what_somebody_did(source: Path, tmp_path: Path) -> None:
    copy_notebooks(tmp_path, (source,))
    (tmp_path / "02_two.ipynb").write_text("mine")
    for name in ("01_one", "02_two"):
        (source / f"{name}.ipynb").write_text("newer")
    for _ in range(2):
        copies = copy_notebooks(tmp_path, (source,))
        assert copies.kept == ("02_two.ipynb",)
        assert (tmp_path / "01_one.ipynb").read_text() == "newer"
        assert (tmp_path / "02_two.ipynb").read_text() == "mine"


def test_a_copy_that_was_deleted_is_made_again(source: Path, tmp_path: Path) -> None:
    copy_notebooks(tmp_path, (source,))
    (tmp_path / "01_one.ipynb").unlink()
    assert copy_notebooks(tmp_path, (source,)).new == ("01_one.ipynb",)


@pytest.mark.parametrize("record", [None, "", "[]", '{"01_one.ipynb": 7}', "\0"])
def test_without_a_record_every_other_file_counts_as_somebodys(source: Path, tmp_path: Path, record: str | None) -> None:
    (tmp_path / "01_one.ipynb").write_text("a notebook of this name that was never ours")
    if record is not None:
        (tmp_path / RECORD).write_text(record)
    copies = copy_notebooks(tmp_path, (source,))
    assert (copies.kept, copies.new) == (("01_one.ipynb",), ("02_two.ipynb",))
    assert (tmp_path / "01_one.ipynb").read_text() == "a notebook of this name that was never ours"


def test_a_directory_that_cannot_be_made_is_named_with_what_to_do(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"notebooks cannot be copied to .*file.*name another directory by --dir"):
        copy_notebooks(tmp_path / "file", (source,))
