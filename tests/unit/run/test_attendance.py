"""Whose workers a host counts as its own when the master tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protheon_dask.broker.cluster_wire import HostList, HostView, Versions
from protheon_dask.run.attendance import Attendance
from protheon_dask.run.reaching import Reach


@dataclass
class Told:
    """A master, as far as it is asked here."""

    views: list[HostView]

    def hosts(self) -> HostList:
        return HostList(0.0, "1", Versions(), self.views)


def test_workers_of_a_start_before_are_not_counted_though_the_master_knows_them_for_some_time() -> None:
    before, now = ("nuc-0d4e5f-0", "nuc-0d4e5f-1", "nuc-a1b2c-0"), ("nuc-a1b2c3-0", "nuc-a1b2c3-1")
    broker: Any = Told([HostView("nuc", 5, workers=(*before, *now)), HostView("mac", 1, workers=("nuc-a1b2c3-7",))])
    attendance = Attendance(broker, Reach("master:50051", "nuc", None), lambda _: None)
    attendance.start = "nuc-a1b2c3"
    attendance._ask()
    assert attendance.n_workers == 2
    attendance.start = "nuc-0d4e5f-1"  # one worker alone has no number
    attendance._ask()
    assert attendance.n_workers == 1
