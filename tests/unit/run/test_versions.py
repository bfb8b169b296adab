"""Versions of a host against its master's: what is refused, what is told, and in whose words."""

from __future__ import annotations

import pytest

from protheon_dask.broker.cluster_wire import Versions
from protheon_dask.run.versions import LIBRARIES, disagreements, own_versions

HERE = Versions("3.11.7", {"dask": "2026.8.0", "distributed": "2026.8.0", "cloudpickle": "3.1.2", "msgspec": "0.20.0"})


def with_library(name: str, version: str) -> Versions:
    return Versions(HERE.python, {**HERE.libraries, name: version})


def test_the_same_versions_agree_and_so_do_patches_of_python() -> None:
    assert disagreements("0.6.0", HERE, "0.6.0", HERE) == []
    assert disagreements("0.6.0", HERE, "0.6.0", Versions("3.11.2", HERE.libraries)) == []


@pytest.mark.parametrize(
    ("version", "master", "told"),
    [
        ("0.5.0", HERE, "protheon-dask is 0.5.0 here and 0.6.0 on the master"),
        ("0.6.0", Versions("3.12.7", HERE.libraries), "Python is 3.11.7 here and 3.12.7 on the master"),
        ("0.6.0", with_library("distributed", "2026.9.0"), "distributed is 2026.8.0 here and 2026.9.0 on the master"),
        ("0.6.0", with_library("dask", "2026.9.0"), "dask is 2026.8.0 here and 2026.9.0 on the master"),
    ],
)
def test_what_work_would_fail_by_is_fatal_and_named(version: str, master: Versions, told: str) -> None:
    [found] = disagreements(version, HERE, "0.6.0", master)
    assert (str(found), found.is_fatal) == (told, True)


def test_another_library_is_told_after_what_is_fatal() -> None:
    master = Versions("3.12.0", {**HERE.libraries, "msgspec": "0.19.0", "new": "1"})
    found = disagreements("0.6.0", HERE, "0.6.0", master)
    assert [(item.name, item.is_fatal) for item in found] == [("Python", True), ("msgspec", False), ("new", False)]
    assert str(found[2]) == "new is not there here and 1 on the master"


def test_a_master_that_names_none_is_not_compared() -> None:
    assert [item.name for item in disagreements("0.6.0", HERE, "0.6.0", Versions(HERE.python))] == []


def test_this_process_knows_its_own() -> None:
    own = own_versions()
    assert set(own.libraries) == set(LIBRARIES)
    assert all(own.libraries.values())
