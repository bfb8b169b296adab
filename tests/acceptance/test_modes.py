"""What a cluster leaves on disk is its owner's: others may pass through home, and read nothing in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.fixtures.cluster import StartCluster

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")


@pytest.mark.slow
def test_home_can_be_entered_and_nothing_below_it_read(start_cluster: StartCluster, tmp_path: Path) -> None:
    with start_cluster(workers=1):
        home = tmp_path / "home"
        modes = {name: stat.S_IMODE((home / name).stat().st_mode) for name in (".", "logs", "dask", "workspace", "cluster.key")}
    assert modes == {".": 0o711, "logs": 0o700, "dask": 0o700, "workspace": 0o700, "cluster.key": 0o600}
