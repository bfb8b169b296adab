"""How many workers a machine takes: by properties, and the numbers that people type."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.errors import ConfigError
from protheon_dask.run.machine import Machine, cgroup_limits, this_machine
from protheon_dask.run.parts import memory_option
from protheon_dask.run.sizing import AROUND_BYTES, LEAST_WORKER_BYTES, MASTER_BYTES, MIB, POSTGRES_BYTES, WORKER_BYTES, choose, parse_memory

GIB = 1 << 30
machines = st.builds(Machine, st.floats(0.1, 256), st.integers(64 * MIB, 4096 * GIB), st.booleans())


@given(machines)
def test_what_is_chosen_fits_the_machine(machine: Machine) -> None:
    sizing = choose(machine)
    assert 1 <= sizing.n_workers <= max(1, machine.cores)
    assert sizing.memory_limit_bytes >= LEAST_WORKER_BYTES
    fits = sizing.n_workers * sizing.memory_limit_bytes + AROUND_BYTES <= machine.memory_bytes
    assert fits == (not sizing.warning) or sizing.n_workers == 1
    assert sizing.n_workers == 1 or sizing.memory_limit_bytes >= WORKER_BYTES


@given(machines, st.integers(1, 500))
def test_who_asks_for_a_number_gets_it_and_is_warned_where_that_is_too_many(machine: Machine, n_workers: int) -> None:
    sizing = choose(machine, n_workers)
    assert sizing.n_workers == n_workers
    if n_workers * sizing.memory_limit_bytes > machine.memory_bytes:
        assert "fewer --workers" in sizing.warning


@given(machines, st.integers(1, 500))
def test_workers_beside_their_master_leave_room_for_it_and_for_postgresql_or_have_what_dask_gives_them(
    machine: Machine, n_workers: int
) -> None:
    match memory_option(machine, n_workers):
        case [_, limit]:
            beside_bytes = AROUND_BYTES + MASTER_BYTES + POSTGRES_BYTES
            assert n_workers * LEAST_WORKER_BYTES <= n_workers * int(limit) <= machine.memory_bytes - beside_bytes
        case _:
            assert choose(machine, n_workers, beside_bytes=AROUND_BYTES + MASTER_BYTES + POSTGRES_BYTES).warning


@given(machines, st.integers(LEAST_WORKER_BYTES, 64 * GIB))
def test_a_limit_that_was_asked_for_decides_how_many_there_are(machine: Machine, limit_bytes: int) -> None:
    sizing = choose(machine, memory_limit_bytes=limit_bytes)
    assert sizing.memory_limit_bytes == limit_bytes
    assert sizing.n_workers == 1 or sizing.n_workers * limit_bytes + AROUND_BYTES <= machine.memory_bytes


@pytest.mark.parametrize(
    ("machine", "n_workers"),
    [
        (Machine(8, 16 * GIB), 8),  # a gaming PC
        (Machine(4, 2 * GIB, is_limited=True), 4),  # a container of 2 GiB
        (Machine(8, 2 * GIB), 3),  # a handheld: the system needs its part
        (Machine(0.5, 512 * MIB, is_limited=True), 1),
        (Machine(2.9, 16 * GIB), 2),  # a quota: a third worker would take the time of the others
    ],
)
def test_machines_at_home_have_as_many_workers_as_they_bear(machine: Machine, n_workers: int) -> None:
    assert choose(machine).n_workers == n_workers


def test_a_limit_that_no_worker_can_live_with_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot work with 200\.0 MB: give --memory-limit at least 268\.4 MB"):
        choose(Machine(4, 8 * GIB), memory_limit_bytes=200_000_000)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GB", 2 * 10**9), ("512MiB", 512 * MIB), ("1.5 GiB", 3 * GIB // 2), ("2g", 2 * 10**9), ("300000000", 3 * 10**8), ("1gi", GIB)],
)
def test_sizes_are_read_as_dask_reads_them(text: str, n_bytes: int) -> None:
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize("text", ["", "much", "2 XB", "-1GB", "2GBit", "0.9"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    if text == "0.9":  # a fraction is a size of no bytes, which choose() refuses
        with pytest.raises(ConfigError):
            choose(Machine(1, GIB), memory_limit_bytes=parse_memory(text))
        return
    with pytest.raises(ConfigError, match="give a size such as 2GB"):
        parse_memory(text)


V1 = "4:memory:/system.slice/protheon.service\n3:cpuset:/\n1:cpu,cpuacct:/system.slice/protheon.service\n0::/\n"


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({}, (None, None)),  # no Linux
        (
            {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "max 100000", "/sys/fs/cgroup/a/b/memory.max": "max"},
            (None, None),
        ),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "300000 100000",
                "/sys/fs/cgroup/a/cpu.max": "150000 100000",
                "/sys/fs/cgroup/a/memory.max": "1000000000\n",
            },
            (1.5, 10**9),
        ),
        (
            # of a container: the path is the host's, only the topmost group can be read
            {"/proc/self/cgroup": "0::/docker/0123\n", "/sys/fs/cgroup/cpu.max": "50000 100000", "/sys/fs/cgroup/memory.max": "268435456"},
            (0.5, 1 << 28),
        ),
        (
            {
                "/proc/self/cgroup": V1,
                "/sys/fs/cgroup/cpu/system.slice/protheon.service/cpu.cfs_quota_us": "200000\n",
                "/sys/fs/cgroup/cpu/system.slice/protheon.service/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/memory/system.slice/protheon.service/memory.limit_in_bytes": "536870912\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            (2.0, 1 << 29),
        ),
    ],
    ids=["no control groups", "no limit", "version 2", "container", "version 1"],
)
def test_the_least_limit_of_a_group_and_those_above_it_counts(files: dict[str, str], limits: tuple[float | None, int | None]) -> None:
    assert cgroup_limits(files.get) == limits


def test_this_machine_has_something() -> None:
    machine = this_machine()
    assert machine.cores > 0
    assert machine.memory_bytes > 64 * MIB
