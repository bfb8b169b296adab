"""What the master's terminal tells of hosts that come and go."""

from __future__ import annotations

from protheon_dask.broker.cluster_wire import HostView
from protheon_dask.run.roll import AWAY_LOOKS, Roll


def test_a_host_is_told_of_once_when_it_joins_is_here_is_away_for_good_and_is_removed() -> None:
    known = (HostView("nuc", 2, join_no=1), HostView("mac", join_no=1), HostView("old", join_no=1, is_removed=True))
    roll = Roll("nuc", known)

    def told(*hosts: HostView, looks: int = 1) -> list[str]:
        return [line for _ in range(looks) for line in roll.changes((*known[:1], *hosts, known[2]))]

    mac, mac_at_work = known[1], HostView("mac", 2, join_no=1)
    assert told(mac) == []
    assert told(mac_at_work, looks=2) == ["mac is here, with 2 workers"]
    assert told(mac, looks=AWAY_LOOKS - 1) == told(mac_at_work) == [], "the scheduler was started again"
    assert told(mac, looks=2 * AWAY_LOOKS) == ["mac is away: none of its workers is connected"]
    pc = HostView("pc\x1b", 1, join_no=1)
    assert told(mac_at_work, pc) == ["mac is here, with 2 workers", "pc\\x1b joined", "pc\\x1b is here, with 1 worker"]
    assert told(HostView("mac", 2, join_no=1, is_removed=True), pc, looks=2) == ["mac is removed"]
    assert told(HostView("mac", 2, join_no=2), pc) == ["mac joined", "mac is here, with 2 workers"]


def test_without_certificates_a_host_that_the_broker_tells_of_no_more_is_away() -> None:
    roll = Roll("nuc", ())
    assert list(roll.changes([HostView("pc", 1)])) == ["pc is here, with 1 worker"]
    assert [line for _ in range(AWAY_LOOKS) for line in roll.changes(())] == ["pc is away: none of its workers is connected"]
