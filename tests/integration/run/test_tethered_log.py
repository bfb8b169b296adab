"""The log of a part of the local cluster ends with why that part ended, and that is what the person is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from protheon_dask.errors import BrokerUnavailable
from protheon_dask.run.supervise import Part, Tethered

PART = """
import pathlib, sys, time
print("ready", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
sys.exit("another broker took the lead")
"""


def test_the_reason_comes_after_what_was_printed_before(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Tethered(Part("broker", ["-c", PART, str(go)], os.environ, tmp_path / "broker.log", grace_s=1.0)) as part:
        assert part.first_line(30.0) == "ready\n"
        go.touch()
        part.process.wait(30.0)
        with pytest.raises(BrokerUnavailable, match="ended with code 1: another broker took the lead"):
            part.check()
