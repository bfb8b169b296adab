"""Each finding of `protheon doctor`, both ways: what is well, and what is not, which, and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protheon_dask.broker.cluster_wire import Versions
from protheon_dask.ledger.fitness import ServerFacts, ServerWay
from protheon_dask.run.doctor import CHECKS, Finding, Level, best_master, diagnose
from protheon_dask.run.vitals import Benched, Disk, Gathered, HostTold, HostVitals, MasterWay

GIB = 1 << 30
LIBRARIES = {"dask": "2026.7.0", "distributed": "2026.7.0", "cloudpickle": "3.1", "msgspec": "0.21"}
SERVER = ServerFacts(
    version="16.4",
    is_standby=False,
    is_read_only=False,
    is_superuser=False,
    max_connections=100,
    reserved=3,
    role_limit=-1,
    database_limit=-1,
    in_use=5,
    in_use_role=4,
    in_use_database=5,
    ours=4,
    may_create_schema=True,
    may_create_temporary=True,
    schema_name="public",
    may_create_table=True,
    has_ledger=True,
    migration=4,
    newest_migration=4,
)


def host(name: str, **more: Any) -> HostVitals:
    known = HostVitals(
        host=name,
        version="0.1.0",
        versions=Versions("3.11.7", LIBRARIES),
        n_cores=4,
        memory_bytes=16 * GIB,
        disk_free_bytes=100 * GIB,
        open_files=65_536,
        has_battery=False,
        temporary_dir="/tmp",
        temporary_free_bytes=50 * GIB,
        joining="nuc:50052",
        peers={"nuc" if name == "mac" else "mac": ""},
        n_workers=4,
        to_master=MasterWay(0.001, 100e6, 0.0, 0.0005),
        to_database=ServerWay(0.001, 100e6, 0.0, 0.0005),
        server=SERVER,
    )
    return replace(known, **more)


WELL = Gathered(
    here=host("desk", n_workers=0),
    master="nuc:50051",
    master_version="0.1.0",
    master_versions=Versions("3.11.9", LIBRARIES),
    scheduler=host("nuc", n_workers=0),
    hosts=(host("mac"), host("nuc")),
    told=(HostTold("mac", until_s=50_000.0, n_workers=4), HostTold("nuc", until_s=50_000.0)),
    database="database 'd7' at nuc:5432, role 'ann'",
    disk=Disk("nuc", "/var/protheon/workspace", 100 * GIB, 20 * GIB, 0),
    now_s=0.0,
)


def mac(**more: Any) -> Gathered:
    """A cluster whose host mac is like this, and all else is well."""
    return replace(WELL, hosts=(host("mac", **more), host("nuc")))


def server(**more: Any) -> Gathered:
    """A cluster whose database is like this."""
    return replace(WELL, here=host("desk", n_workers=0, server=replace(SERVER, **more)))


def disk(**more: Any) -> Gathered:
    assert WELL.disk is not None
    return replace(WELL, disk=replace(WELL.disk, **more))


def ill(found: Gathered) -> list[Finding]:
    return [finding for finding in diagnose(found).findings if finding.level is not Level.OK]


def test_a_cluster_that_is_well_has_a_finding_of_each_check_and_nothing_to_do() -> None:
    diagnosis = diagnose(replace(WELL, hosts=(host("mac", benched=Benched(10_000, 5_000, 4_000)), host("nuc"))))
    assert diagnosis.is_well
    assert not [finding for finding in diagnosis.findings if finding.level is not Level.OK or finding.to_do]
    subjects = {finding.what for finding in diagnosis.findings}
    assert subjects == {
        *("master", "scheduler", "versions", "clock", "certificate", "reach", "database", "rights", "connections"),
        *("workspace", "temporary files", "open files", "link", "bench"),
    }
    assert len(CHECKS) == 12


FAULTS = {
    "no master": (replace(WELL, master_trouble="no answer"), "fail", "master", "nuc:50051", "no answer", "protheon master"),
    "no scheduler": (replace(WELL, scheduler_trouble="timed out"), "fail", "scheduler", "nuc:50051", "timed out", "8786"),
    "no workers": (replace(WELL, hosts=()), "warn", "workers", "nuc:50051", "there are none", "protheon worker"),
    "another Python": (mac(versions=Versions("3.12.1", LIBRARIES)), "fail", "versions", "mac", "Python 3.12.1", "same Python"),
    "another Dask": (
        mac(versions=Versions("3.11.7", {**LIBRARIES, "dask": "2025.1.0"})),
        "fail",
        "versions",
        "mac",
        "dask 2025.1.0",
        "pip install",
    ),
    "another Protheon": (mac(version="0.0.9"), "fail", "versions", "mac", "0.0.9", "protheon-dask==0.1.0"),
    "another msgspec": (
        mac(versions=Versions("3.11.7", {**LIBRARIES, "msgspec": "0.18"})),
        "warn",
        "versions",
        "mac",
        "msgspec 0.18",
        "constraints.txt",
    ),
    "clock off from master": (mac(to_master=MasterWay(0.001, 1e8, 4.0, 0.1)), "warn", "clock", "mac", "ahead of the master", "NTP"),
    "clock off from PostgreSQL": (
        mac(to_database=ServerWay(0.001, 1e8, -900.0, 0.1)),
        "fail",
        "clock",
        "mac",
        "15 min 00 s behind PostgreSQL's",
        "certificates",
    ),
    "set aside": (
        replace(WELL, told=(HostTold("mac", aside="3 chunks failed in a row"),)),
        "warn",
        "host",
        "mac",
        "gets no work: 3 chunks",
        "mend",
    ),
    "certificate not renewed": (
        replace(WELL, told=(HostTold("mac", until_s=7_200.0, n_workers=1),)),
        "warn",
        "certificate",
        "mac",
        "2 h",
        "renewed",
    ),
    "certificate ended": (
        replace(WELL, told=(HostTold("mac", until_s=-60.0, n_workers=1),)),
        "fail",
        "certificate",
        "mac",
        "ended",
        "start `protheon worker` there again",
    ),
    "silent worker": (replace(WELL, silent={"mac-1": "timed out"}), "fail", "reach", "worker mac-1", "timed out", "firewall"),
    "worker without master": (mac(to_master=None, master_trouble="refused"), "fail", "reach", "mac", "do not reach the master", "50051"),
    "worker without database": (
        mac(to_database=None, server=None, database_trouble="pg_hba"),
        "fail",
        "reach",
        "mac",
        "cannot use the database",
        "no loopback",
    ),
    "worker without another host": (
        mac(peers={"nuc": "tls://10.0.0.5:4: refused"}),
        "warn",
        "reach",
        "mac",
        "those of nuc",
        "bags, dataframes",
    ),
    "host that cannot come back": (mac(joining="", joining_trouble="nuc:50052: refused"), "warn", "reach", "mac", "hosts join", "50052"),
    "no database": (
        replace(WELL, here=host("desk", n_workers=0, server=None, to_database=None, database_trouble="no such role")),
        "fail",
        "database",
        WELL.database,
        "no such role",
        "mend",
    ),
    "standby": (server(is_standby=True), "fail", "database", WELL.database, "standby", "primary"),
    "read only": (server(is_read_only=True), "fail", "database", WELL.database, "read_only", "ALTER ROLE"),
    "no ledger rights": (
        server(lacks=("run",)),
        "fail",
        "rights",
        WELL.database,
        "may not use the ledger",
        "GRANT USAGE ON SCHEMA protheon",
    ),
    "may make no ledger": (
        server(has_ledger=False, may_create_schema=False),
        "fail",
        "rights",
        WELL.database,
        "may not make one",
        "GRANT CREATE ON DATABASE",
    ),
    "older ledger": (server(migration=3), "warn", "rights", WELL.database, "migration 3", "protheon db migrate"),
    "newer ledger": (server(migration=9), "fail", "rights", WELL.database, "knows 4", "upgrade"),
    "closed table": (
        server(closed=("pgcr.instance",)),
        "fail",
        "rights",
        WELL.database,
        "may not fill pgcr.instance",
        "GRANT SELECT, INSERT",
    ),
    "may make no tables": (
        server(may_create_table=False),
        "warn",
        "rights",
        WELL.database,
        "no tables in schema public",
        "GRANT CREATE ON SCHEMA",
    ),
    "no search path": (
        server(may_create_table=False, schema_name=None),
        "warn",
        "rights",
        WELL.database,
        "none exists",
        "GRANT CREATE ON SCHEMA public",
    ),
    "no temporary tables": (server(may_create_temporary=False), "fail", "rights", WELL.database, "temporary", "GRANT TEMPORARY"),
    "too few connections": (server(max_connections=20), "fail", "connections", WELL.database, "max_connections 20", "at most 1 worker"),
    "few connections": (server(max_connections=30), "warn", "connections", WELL.database, "26 are there", "at most 4 workers"),
    "role's limit": (server(role_limit=10), "fail", "connections", WELL.database, "CONNECTION LIMIT 10 of the role", "raise it"),
    "database's limit": (
        server(database_limit=10),
        "fail",
        "connections",
        WELL.database,
        "CONNECTION LIMIT 10 of the database",
        "raise it",
    ),
    "full disk": (disk(free_bytes=GIB // 2), "fail", "workspace", "nuc", "536.9 MB free", "PROTHEON_WORKSPACE"),
    "small disk": (disk(free_bytes=10 * GIB), "warn", "workspace", "nuc", "may fill the disk", "smaller quota"),
    "shared disk": (disk(free_bytes=30 * GIB, shared_with="/var/pg"), "warn", "workspace", "nuc", "tables in /var/pg", "make room"),
    "unknown disk": (
        replace(WELL, disk=None, disk_trouble="no module"),
        "warn",
        "workspace",
        "nuc:50051",
        "no module",
        "on the master's own host",
    ),
    "little room for temporary files": (
        mac(temporary_free_bytes=GIB // 2),
        "warn",
        "temporary files",
        "mac",
        "536.9 MB free in /tmp",
        "TMPDIR",
    ),
    "no temporary files": (
        mac(temporary_dir="none can be written", temporary_free_bytes=None),
        "fail",
        "temporary files",
        "mac",
        "none can be written",
        "TMPDIR",
    ),
    "few files": (mac(open_files=200), "fail", "open files", "mac", "200 a process", "ulimit -n 4096"),
    "few files on the master": (
        replace(WELL, scheduler=host("nuc", open_files=256)),
        "fail",
        "open files",
        "nuc (master)",
        "384 are needed",
        "LimitNOFILE",
    ),
    "slow master": (mac(to_master=MasterWay(0.001, 2e6, 0.0, 0.1)), "warn", "link", "mac", "2.0 MB/s from the master", "cable"),
    "slow database": (mac(to_database=ServerWay(0.001, 2e6, 0.0, 0.1)), "warn", "link", "mac", "2.0 MB/s to the database", "fewer workers"),
    "far database": (mac(to_database=ServerWay(0.05, 1e9, 0.0, 0.1)), "warn", "link", "mac", "waits 1.6 s", "larger chunks"),
    "failed bench": (mac(bench_trouble="MemoryError"), "fail", "bench", "mac", "MemoryError", "log"),
    "bench without copy": (
        mac(benched=Benched(10_000, 5_000, None, "refused")),
        "warn",
        "bench",
        "mac",
        "copy was not measured: refused",
        "mend",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_alone_with_its_place_and_a_way_out(name: str) -> None:
    found, level, what, which, told, to_do = FAULTS[name]
    [finding] = [finding for finding in ill(found) if finding.what == what]
    assert (finding.level, finding.which) == (level, which)
    assert told in finding.told
    assert to_do in finding.to_do
    assert not [finding for finding in ill(found) if finding.what != what]
    assert diagnose(found).is_well == (level == "warn")


def test_a_host_that_is_away_is_well_and_one_that_is_gone_is_no_host_of_the_cluster() -> None:
    def told(until_s: float) -> list[str]:
        diagnosis = diagnose(replace(WELL, told=(HostTold("mac", until_s=until_s),)))
        assert diagnosis.is_well
        return [finding.told for finding in diagnosis.findings if finding.what == "certificate" and finding.level is Level.OK]

    [finding] = [
        finding for finding in diagnose(replace(WELL, told=(HostTold("mac", until_s=7_200.0),))).findings if finding.what == "host"
    ]
    assert (finding.level, finding.which, finding.told[:28]) == (Level.OK, "mac", "no worker of it is connected")
    assert told(7_200.0) == ["ends in 2 h 00 min"], "nobody renews it, as its host sleeps"
    assert told(-7_200.0) == ["away: its certificate ended 2 h 00 min ago; it comes back by itself until 1970-01-30 22:00:00Z"]
    assert told(-31 * 86_400.0) == []


def test_an_unsure_clock_is_not_blamed() -> None:
    """Ten seconds off where a round trip took thirty: it may as well be right."""
    assert not ill(mac(to_master=MasterWay(30.0, 1e8, 10.0, 15.0)))


def test_connections_of_protheon_itself_count_as_free() -> None:
    """36 are needed: 33 are left where its own 20 are in use, for these are among the 36."""
    assert not ill(server(max_connections=40, in_use=21, ours=20))
    [finding] = ill(server(max_connections=40, in_use=21, ours=0))
    assert finding.what == "connections"


def test_a_superuser_is_not_bound_by_what_is_reserved_for_it() -> None:
    assert not ill(server(max_connections=37, reserved=3, is_superuser=True, role_limit=1))
    assert ill(server(max_connections=37, reserved=3))


def test_without_a_master_this_machine_alone_is_judged() -> None:
    alone = Gathered(here=host("desk", n_workers=0, to_master=None), database="here", disk=WELL.disk)
    diagnosis = diagnose(alone)
    assert diagnosis.is_well
    assert {finding.what for finding in diagnosis.findings} == {
        *("versions", "clock", "database", "rights", "connections", "workspace", "open files", "link"),
    }


def test_the_best_master_is_the_nearest_to_the_database_of_those_that_are_able() -> None:
    def named(**hosts: HostVitals) -> str:
        return best_master(replace(WELL, here=hosts["a"], hosts=tuple(hosts.values()), scheduler=None))[0]

    far, near = ServerWay(0.010, 1e8, 0.0, 0.0), ServerWay(0.001, 1e8, 0.0, 0.0)
    assert named(a=host("a", to_database=far), b=host("b", to_database=near)) == "b"
    assert named(a=host("a", to_database=far), b=host("b", to_database=near, has_battery=True)) == "a"
    assert named(a=host("a", to_database=far), b=host("b", to_database=near, memory_bytes=GIB)) == "a"
    assert named(a=host("a", to_database=far), b=host("b", to_database=near, disk_free_bytes=GIB)) == "a"
    assert named(a=host("a", to_database=near), b=host("b", to_database=near, disk_free_bytes=200 * GIB)) == "b"
    assert named(a=host("a", to_database=None), b=host("b", to_database=far, has_battery=True)) == "b"
    assert best_master(Gathered(here=host("a", to_database=None))) == ("", "")


def test_the_present_master_stays_unless_another_is_better_by_something_that_matters() -> None:
    def judged(**more: Any) -> tuple[str, str]:
        return best_master(replace(WELL, scheduler=host("nas", n_workers=0, **more)))

    name, because = judged(to_database=ServerWay(0.0025, 1e8, 0.0, 0.0))
    assert (name, because.split("; ")[:2]) == ("nas", ["it is the master now", "2.5 ms to the database"])
    assert "no battery" in because
    assert judged(disk_free_bytes=5 * GIB)[0] == "nas"
    for more, why in (
        ({"to_database": ServerWay(0.012, 1e8, 0.0, 0.0)}, "1.0 ms to the database; nas, the master now, is 12.0 ms from it"),
        ({"has_battery": True}, "nas, the master now, has a battery"),
        ({"memory_bytes": GIB}, "nas, the master now, has only 1.1 GB of memory"),
    ):
        name, because = judged(**more)
        assert name == "desk"
        assert why in because
    assert judged(to_database=None) == ("", ""), "an older version's scheduler does not tell"


def test_a_host_of_several_processes_is_their_sum() -> None:
    both = Benched(100, 50, 25).plus(Benched(200, 150, 75))
    assert (both.decompress_lines_per_s, both.transform_lines_per_s, both.copy_lines_per_s, both.n_processes) == (300, 200, 100, 2)
    assert both.lines_per_s == pytest.approx(1 / (1 / 300 + 1 / 200 + 1 / 100))
    assert Benched(100, 50, 25).plus(Benched(200, 150, None, "refused")).copy_lines_per_s is None
