"""Three hosts load real reports over mutual TLS while the network, the hosts or the master fail; each case ends with the oracle's rows."""

from __future__ import annotations

import itertools
import signal
import statistics
from collections.abc import Callable, Iterator

import pytest

from protheon_dask.config import Settings
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.run.machine import Machine
from protheon_dask.run.sizing import choose
from protheon_dask.words import size
from tests.fixtures.cluster import wait_until
from tests.fixtures.fleet import Attempt, Fleet, Run, fleet_of, now_s
from tests.fixtures.network import Host, needs_groups, needs_network
from tests.fixtures.report_oracle import answer, differences
from tests.network.conftest import Record

pytestmark = [needs_network, pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("macbook", "nuc", "handheld")
CHUNK_LINES, PACE_S = 20, 1.0
"""A chunk takes a second on every host, as long as the case needs that."""
N_LINES = 8_000
"""Three hosts with one worker each are at work on these for more than two minutes, unless the gate is opened."""
TAKEN_S = Settings().lease_s + Settings().complete_grace_s
"""In so long others are at work on what a silent host had in hand; a host whose network is back works again in as long."""
HALF_BYTES = 1000 << 20
"""Of a machine with two cores and 2 GB: it has room for one worker, twice as much has it for both."""
FAST_CORES, SLOW_CORES = 0.4, 0.024
"""With these it does a tenth of a fast one's chunks, or a little less (measured)."""
_seeds = itertools.count(100)


@pytest.fixture(scope="module")
def module_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One cluster with the product's own time-outs for all cases: each mends what it broke."""
    with fleet_of(tmp_path_factory.mktemp("fleet"), *NAMES) as fleet:
        fleet.type(fleet.master, f"protheon cluster init --address {fleet.master.address}")
        fleet.start_master()
        for host in hosts_of(fleet):
            fleet.start(host, f"{fleet.invite()} --workers 1")
        yield fleet


@pytest.fixture
def fleet(module_fleet: Fleet) -> Iterator[Fleet]:
    """All three hosts work, and the tables are empty."""
    module_fleet.wait_workers(*hosts_of(module_fleet))
    module_fleet.clear()
    yield module_fleet
    module_fleet.network.heal()


@pytest.fixture
def macbook(fleet: Fleet) -> Host:
    return fleet.network.hosts["macbook"]


def hosts_of(fleet: Fleet) -> list[Host]:
    return [fleet.network.hosts[name] for name in NAMES]


class Case:
    """A load of its own reports, in its middle."""

    def __init__(
        self, fleet: Fleet, *, n_lines: int = N_LINES, chunk_lines: int = CHUNK_LINES, pace_s: float = PACE_S, detach: bool = False
    ) -> None:
        self.fleet, self.n_lines, self.seed = fleet, n_lines, next(_seeds)
        source = fleet.sample(f"case-{self.seed}", n_lines, self.seed)
        self.run: Run = fleet.submit(source, chunk_lines, pace_s, detach=detach)

    def end(self, *, retries: bool = True) -> None:
        """Let the load end, and compare the tables with what must be in them. retries: may there have been any?"""
        told = self.run.finish()
        assert (told["state"], told["lines"], told["loaded"], told["dead_letters"]) == ("succeeded", self.n_lines, self.n_lines, 0)
        assert differences(self.fleet.admin_url, answer(sample_lines(self.n_lines, self.seed))) == []
        self.fleet.verify(self.run)
        succeeded = [attempt.task_id for attempt in self.run.attempts() if attempt.outcome == "succeeded"]
        assert len(succeeded) == len(set(succeeded))
        if not retries:
            assert [attempt for attempt in self.run.attempts() if attempt.outcome != "succeeded"] == []


@pytest.mark.parametrize("away_s", [5, 60])
def test_a_host_that_loses_its_link_and_has_it_back_works_again(fleet: Fleet, macbook: Host, record: Record, away_s: int) -> None:
    case = Case(fleet)
    case.run.wait_done(5)
    lost = case.run.wait_in_hand(macbook)
    unplugged_s = now_s()
    macbook.unplug()
    elsewhere_s = None
    if away_s == 60:
        elsewhere_s = case.run.wait_taken_over(lost, 60) - unplugged_s
    wait_until(lambda: now_s() > unplugged_s + away_s, away_s + 5)
    macbook.plug()
    plugged_s = now_s()
    again_s = case.run.wait_works(macbook, plugged_s) - plugged_s
    record(f"a host's link is gone for {away_s} s", elsewhere_s=elsewhere_s, again_s=again_s)
    assert again_s < TAKEN_S
    case.end()


def test_a_host_that_never_comes_back_costs_what_it_had_in_hand_a_second_try(fleet: Fleet, macbook: Host, record: Record) -> None:
    case = Case(fleet)
    case.run.wait_done(5)
    lost = case.run.wait_in_hand(macbook)
    unplugged_s = now_s()
    macbook.unplug()
    taken_s = case.run.wait_taken_over(lost)
    assert taken_s - unplugged_s < TAKEN_S
    case.end()
    assert not [attempt for attempt in case.run.on(macbook) if attempt.started_s > unplugged_s + 1]
    macbook.plug()  # for the next case
    record("a host's link is gone for good", elsewhere_s=taken_s - unplugged_s)


@pytest.mark.parametrize("way", ["nothing of it arrives", "nothing arrives there"])
def test_a_host_of_which_one_direction_is_black_holed_is_back_once_that_ends(fleet: Fleet, macbook: Host, record: Record, way: str) -> None:
    case = Case(fleet)
    case.run.wait_done(5)
    lost = case.run.wait_in_hand(macbook)
    cut_s = now_s()
    if way == "nothing arrives there":
        macbook.deafen()
    else:
        fleet.network.silence(macbook)
    elsewhere_s = case.run.wait_taken_over(lost) - cut_s
    fleet.network.heal()
    healed_s = now_s()
    again_s = case.run.wait_works(macbook, healed_s) - healed_s
    record(f"one direction is black-holed: {way}", elsewhere_s=elsewhere_s, again_s=again_s)
    assert max(elsewhere_s, again_s) < TAKEN_S
    case.end()


def lossy(host: Host) -> Callable[[], None]:
    host.lose(0.01)
    return host.heal


def far(host: Host) -> Callable[[], None]:
    host.lengthen(0.025)
    return host.shorten


@pytest.mark.parametrize("make", [lossy, far])
def test_a_poor_network_costs_no_second_try(fleet: Fleet, make: Callable[[Host], Callable[[], None]]) -> None:
    """1 % of the packets lost each way; 25 ms each way."""
    mends = [make(host) for host in (hosts_of(fleet) if make is far else [fleet.master, *hosts_of(fleet)])]
    case = Case(fleet, chunk_lines=200, pace_s=0)
    case.end(retries=False)
    for mend in mends:
        mend()


def test_a_hundred_megabits_carry_under_a_seventh_of_the_raw_bytes(fleet: Fleet) -> None:
    """All that arrives at the workers' hosts counts: chunks, certificates, Dask's words, PostgreSQL's answers."""
    hosts = hosts_of(fleet)
    for host in (fleet.master, *hosts):
        host.limit_rate(100_000_000)
    before = sum(host.carried_bytes()[0] for host in hosts)
    case = Case(fleet, n_lines=20_000, chunk_lines=1_000, pace_s=0)
    case.end(retries=False)
    carried_bytes = sum(host.carried_bytes()[0] for host in hosts) - before
    raw_bytes = sum(len(line) + 1 for line in sample_lines(case.n_lines, case.seed))
    for host in (fleet.master, *hosts):
        host.free_rate()
    print(f"the wire carried {carried_bytes / 1e6:.1f} MB of {raw_bytes / 1e6:.1f} MB raw: {carried_bytes / raw_bytes:.3f}")
    assert carried_bytes < raw_bytes / 7


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_master_that_ends_in_the_middle_and_is_started_again_goes_on(fleet: Fleet, record: Record, how: signal.Signals) -> None:
    case = Case(fleet, detach=True)  # by `--detach`, as where a master stands
    case.run.wait_done(5)
    fleet.stop(fleet.master, how)
    fleet.start_master()
    ready_s = now_s()
    starts = [case.run.wait_works(host, ready_s) - ready_s for host in hosts_of(fleet)]
    record(f"the master ends by {how.name} and is started again (all hosts work)", again_s=max(starts))
    assert max(starts) < TAKEN_S
    case.end()


def test_a_host_that_joins_in_the_middle_has_work_within_5_s_and_one_that_is_drained_runs_nothing_twice(
    fleet: Fleet, macbook: Host, record: Record
) -> None:
    assert fleet.stop(macbook) == 0
    wait_until(lambda: "macbook" not in fleet.workers(), 60)
    case = Case(fleet)
    case.run.wait_done(5)
    typed_s = now_s()
    fleet.start(macbook, "protheon worker --workers 1")
    fleet.wait_said(macbook, "joined the master")
    joined_s = now_s()  # as a person sees it there
    begun_s = case.run.wait_works(macbook, typed_s)
    assert begun_s - joined_s < 5
    record("a host joins: from its command", again_s=begun_s - typed_s)

    case.run.wait_in_hand(macbook)
    drained_s = now_s()
    assert fleet.stop(macbook) == 0
    record("a host is drained", elsewhere_s=now_s() - drained_s)
    fleet.start(macbook, "protheon worker --workers 1")  # for the next case
    case.end(retries=False)


@needs_groups
def test_a_host_with_half_the_memory_chooses_fewer_workers_and_works_within_it(fleet: Fleet, macbook: Host) -> None:
    """What outgrew the limit would be killed by the kernel."""
    whole, half = choose(Machine(2.0, 2 * HALF_BYTES, is_limited=True)), choose(Machine(2.0, HALF_BYTES, is_limited=True))
    assert (whole.n_workers, half.n_workers) == (2, 1)
    assert fleet.stop(macbook) == 0
    macbook.limit_memory(HALF_BYTES)
    fleet.start(macbook, "protheon worker --workers auto")
    fleet.wait_workers(macbook)
    assert f"host macbook: 1 worker of {size(half.memory_limit_bytes)} at most" in fleet.said(macbook)
    case = Case(fleet, n_lines=20_000, chunk_lines=1_000, pace_s=0)
    case.end(retries=False)
    assert case.run.on(macbook)
    assert macbook.n_killed_for_memory() == 0
    assert macbook.peak_memory_bytes() <= HALF_BYTES
    macbook.limit_memory(1 << 40)


@needs_groups
def test_a_host_at_a_tenth_of_the_speed_does_not_hold_up_two_hundred_chunks(fleet: Fleet, macbook: Host) -> None:
    """The wall is at most 1.2 times the ideal: as many chunks as there are, over the sum of the rates at which the hosts work.

    A rate is of the time for which a chunk is in hand, and of the way to the next one as it usually is: a host that waits for work does
    not make the ideal longer.
    """
    case = Case(fleet, n_lines=200, chunk_lines=1)  # wakes everything up
    case.end()
    fleet.clear()
    for host in hosts_of(fleet):
        host.limit_cpu(SLOW_CORES if host is macbook else FAST_CORES)
    case = Case(fleet, n_lines=40_000, chunk_lines=200, pace_s=0)
    case.end(retries=False)
    for host in hosts_of(fleet):
        host.limit_cpu(4)
    attempts = case.run.attempts()
    wall_s = max(it.ended_s or 0.0 for it in attempts) - min(it.started_s for it in attempts)
    rates = {host.name: rate_of(case.run.on(host)) for host in hosts_of(fleet)}
    ideal_s = len(attempts) / sum(rates.values())
    told = ", ".join(f"{name} {rate:.2f}/s" for name, rate in rates.items())
    print(f"{len(attempts)} chunks in {wall_s:.1f} s, ideal {ideal_s:.1f} s: {wall_s / ideal_s:.2f}; {told}")
    assert len(attempts) == 200
    assert rates["macbook"] <= 0.11 * min(rates["nuc"], rates["handheld"])
    assert wall_s <= 1.2 * ideal_s


def rate_of(mine: list[Attempt]) -> float:
    """Chunks a second of one worker, by its attempts in their order."""
    in_hand_s = sum((it.ended_s or 0.0) - it.started_s for it in mine)
    pauses_s = [later.started_s - (before.ended_s or 0.0) for before, later in itertools.pairwise(mine)]
    return len(mine) / (in_hand_s + len(mine) * statistics.median(pauses_s))
