"""Whose workers a host counts as its own when the master tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from protheon_dask.broker.cluster_wire import HostList, HostView, Versions
from protheon_dask.run.attendance import Attendance, Headcount
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


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([(0, 300)], ""),  # a slow machine is still at its start
        ([(0, 301)], "the master has known no worker of this host for 5 min 01 s, though they run"),
        ([(None, 290), (0, 590)], ""),  # who does not answer does not tell
        ([(2, 10), (0, 20), (0, 80)], ""),
        ([(2, 10), (0, 20), (0, 81)], "the master has known no worker of this host for 1 min 01 s, though they run"),
        ([(2, 10), (2, 9_000)], ""),
        ([(2, 10), (1, 20), (1, 320)], ""),
        ([(2, 10), (1, 20), (1, 321)], "the master has known only 1 of this host's 2 workers for 5 min 01 s"),
        ([(1, 20), (2, 200), (1, 300), (1, 500)], ""),  # one that dies and comes back
        ([(1, 20), (None, 300), (1, 500)], ""),
    ],
)
def test_a_host_begins_anew_when_workers_are_missing_for_long_at_a_master_that_answers(
    looks: list[tuple[int | None, float]], told: str
) -> None:
    headcount = Headcount(2, 0.0)
    assert [headcount.trouble(n, now_s) for n, now_s in looks] == ["" for _ in looks[1:]] + [told]
