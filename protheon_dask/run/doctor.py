"""What is wrong with a cluster, and what to do about it: findings from what was gathered. Pure.

Each check takes what run.gathering found and gives its findings: what was looked at, which host or service it is about, and, where
it is not well, what to do. A warning costs time or is a risk; a failure keeps runs from working.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from protheon_dask import words
from protheon_dask.ledger.fitness import ServerFacts
from protheon_dask.ledger.migrate import grants
from protheon_dask.run.trust.presence import Presence, back_until, presence
from protheon_dask.run.versions import disagreements
from protheon_dask.run.vitals import Gathered, HostTold, HostVitals

CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 300.0
"""Leases are the database's time alone; logs and pages show each host's own, and a certificate is good from a moment on."""
WORKER_CONNECTIONS: Final = 3
"""Of a worker process with PostgreSQL: its data, its leases, and now and then one for a task's own transaction."""
MASTER_CONNECTIONS: Final = 12
"""Of a broker: the lead, two of telemetry, one that finishes runs, and those of calls at the same time."""
OPEN_FILES_MASTER, OPEN_FILES_A_WORKER = 256, 16
"""What scheduler and broker need: for themselves, and for each worker process (connections both ways, a chunk's file)."""
OPEN_FILES_HOST: Final = 256
"""What a worker process needs: libraries, connections, spools."""
SPARE_BYTES: Final = 1 << 30
"""A disk with less is full as soon as something else writes, or two workers keep a chunk of 512 MiB there."""
LATENCY_WARN_S: Final = 0.02
"""A chunk of 50,000 lines takes ROUND_TRIPS to the database: from here on they cost a tenth of its time."""
ROUND_TRIPS: Final = 31
"""Of such a chunk: one a batch and six a chunk (DESIGN 6), the COPYs apart."""
MASTER_SLOW_BYTES_S, DATABASE_SLOW_BYTES_S = 1_000_000.0, 5_000_000.0
"""Of one worker process that is never to wait: compressed chunks in, rows out (docs/benchmarks.md: 10,000 lines/s of 6 kB, ratio 9)."""
CERTIFICATE_WARN_S: Final = 6 * 3_600.0
"""A certificate lives for a day and is renewed after a third of it: with less left, renewing does not work."""
LEAST_MASTER_MEMORY_BYTES: Final = 2 << 30
"""Scheduler, broker and the splitters: one that is short of memory is no master."""
EVEN_S: Final = 0.002
"""Two hosts whose ways to the database differ by less are alike: ROUND_TRIPS of it are 60 ms of a chunk that takes seconds."""
LEAST_MASTER_DISK_BYTES: Final = 4 << 30
"""For a workspace that holds what the workers want next."""


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. what: the subject; which: host or service; told: what was found; to_do: empty where all is well."""

    level: Level
    what: str
    which: str
    told: str
    to_do: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings; and which host should be the master, and why (empty: nothing was measured that says it)."""

    findings: tuple[Finding, ...]
    best_master: str = ""
    because: str = ""

    @property
    def is_well(self) -> bool:
        """Is there no failure? Warnings are."""
        return all(finding.level is not Level.FAIL for finding in self.findings)


def diagnose(found: Gathered) -> Diagnosis:
    """Everything that can be said of what was gathered."""
    findings = tuple(finding for check in CHECKS for finding in check(found))
    best, because = best_master(found)
    return Diagnosis(findings, best, because)


def check_master(found: Gathered) -> Iterator[Finding]:
    """Does the master answer, and its scheduler?"""
    if not found.master:
        return
    what, to_do = (
        "master",
        (
            "is it running (`protheon master`), and is this its gRPC address? Behind a firewall, open that port; "
            "one with certificates answers only hosts that have joined it (`protheon worker --join`)"
        ),
    )
    if found.master_trouble:
        yield Finding(Level.FAIL, what, found.master, found.master_trouble, to_do)
        return
    yield Finding(Level.OK, what, found.master, f"answers, version {found.master_version}")
    if found.scheduler_trouble:
        to_do = "open the scheduler's port (8786) to this host, and see that both have a certificate of the same cluster"
        yield Finding(Level.FAIL, "scheduler", found.master, found.scheduler_trouble, to_do)
    else:
        yield Finding(
            Level.OK, "scheduler", found.master, f"answers, {words.counted(found.n_workers, 'worker process', 'worker processes')}"
        )
        if not found.n_workers:
            to_do = "start some: `protheon worker MASTER` on each host, or --workers of `protheon master`"
            yield Finding(Level.WARN, "workers", found.master, "there are none: runs wait", to_do)


def check_versions(found: Gathered) -> Iterator[Finding]:
    """Do all hosts have the same Python (to its minor), Protheon, Dask, and what pipelines are pickled by?"""
    what, n_well = "versions", 0
    if found.master_versions is None:
        told = f"Protheon {found.here.version}, Python {found.here.versions.python}"
        yield Finding(Level.OK, what, found.here.host, told)
        return
    hosts = list(found.hosts)
    if all(host.host != found.here.host for host in hosts):
        hosts.insert(0, found.here)
    for host in hosts:
        differing = disagreements(host.version, host.versions, found.master_version, found.master_versions)
        if not differing:
            n_well += 1
            continue
        told = "; ".join(f"{item.name} {item.here or 'none'}, the master has {item.there or 'none'}" for item in differing)
        to_do = (
            "install the same there: pip install 'protheon-dask==" + found.master_version + "' -c constraints.txt, under the same Python"
        )
        yield Finding(Level.FAIL if any(item.is_fatal for item in differing) else Level.WARN, what, host.host, told, to_do)
    if n_well:
        told = f"Protheon {found.master_version}, Python {found.master_versions.python}, as on the master"
        yield Finding(Level.OK, what, words.counted(n_well, "host"), told)


def check_clocks(found: Gathered) -> Iterator[Finding]:
    """Do the clocks agree: each host's with the master's and with PostgreSQL's?"""
    for host in _hosts_once(found):
        ways = (("the master's", host.to_master), ("PostgreSQL's", host.to_database))
        for whose, way in ways:
            if way is None:
                continue
            off_s = abs(way.clock_offset_s)
            direction = "ahead of" if way.clock_offset_s > 0 else "behind"
            told = f"{words.duration(off_s)} {direction} {whose}, give or take {way.clock_error_s * 1e3:.1f} ms"
            sure_s = off_s - way.clock_error_s
            to_do = "set the clock of one of the two by NTP (`timedatectl set-ntp true`)"
            if sure_s > CLOCK_FAIL_S:
                to_do += ": certificates may count as not valid yet, or as run out"
                yield Finding(Level.FAIL, "clock", host.host, told, to_do)
            elif sure_s > CLOCK_WARN_S:
                yield Finding(Level.WARN, "clock", host.host, told, f"{to_do}: times in logs and pages do not agree")
            else:
                yield Finding(Level.OK, "clock", host.host, f"within {max(off_s, way.clock_error_s) * 1e3:.0f} ms of {whose}")


def check_certificates(found: Gathered) -> Iterator[Finding]:
    """Are hosts set aside, and are their certificates being renewed?"""
    for host in found.told:
        if host.aside:
            yield Finding(Level.WARN, "host", host.name, f"gets no work: {host.aside}", "mend what it says; it is tried again by itself")
        if host.until_s is None:
            continue
        is_master = found.scheduler is not None and host.name == found.scheduler.host
        if not (host.n_workers or is_master or found.scheduler_trouble) and found.now_s < host.until_s:
            yield Finding(Level.OK, "host", host.name, "no worker of it is connected: it comes back by itself where `protheon worker` runs")
        yield from _certificate(host, datetime.fromtimestamp(host.until_s, UTC), datetime.fromtimestamp(found.now_s, UTC))


def _certificate(host: HostTold, until_at: datetime, now: datetime) -> Iterator[Finding]:
    """A host that is away is well, whatever became of its certificate; one that is gone for good, as a container that was replaced, is
    no host of this cluster any more."""
    what, left_s = "certificate", (until_at - now).total_seconds()
    ended = f"its certificate ended {words.duration(-left_s)} ago"
    match presence(until_at, now):
        case Presence.IN if left_s < CERTIFICATE_WARN_S and host.n_workers:
            to_do = "it is not renewed: see the log of `protheon worker` there, and whether it reaches the master"
            yield Finding(Level.WARN, what, host.name, f"ends in {words.duration(left_s)}", to_do)
        case Presence.IN:
            yield Finding(Level.OK, what, host.name, f"ends in {words.duration(left_s)}")
        case _ if host.n_workers:
            to_do = "start `protheon worker` there again: it comes back by itself, if it reaches the master where hosts join (50052)"
            yield Finding(Level.FAIL, what, host.name, f"{ended}, and its workers cannot connect anew", to_do)
        case Presence.AWAY:
            yield Finding(Level.OK, what, host.name, f"away: {ended}; it comes back by itself until {words.clock(back_until(until_at))}")
        case Presence.GONE:
            return


def check_reach(found: Gathered) -> Iterator[Finding]:
    """Does the scheduler reach each worker, and each host's workers the broker and the database?"""
    for worker, why in found.silent.items():
        to_do = "see its log; a host with a firewall must let the master reach its worker ports; an older Protheon has no such look"
        yield Finding(Level.FAIL, "reach", f"worker {worker}", f"the scheduler cannot ask it: {why}", to_do)
    for host in found.hosts:
        if host.master_trouble:
            to_do = "open the master's gRPC port (50051) to this host"
            yield Finding(Level.FAIL, "reach", host.host, f"its workers do not reach the master: {host.master_trouble}", to_do)
        elif host.to_master is not None:
            yield Finding(Level.OK, "reach", host.host, f"{_workers(host)} and the master reach each other")
        if host.database_trouble:
            to_do = "mend it there: the URL is the master's, and must be right from this host too (no loopback, no socket)"
            yield Finding(Level.FAIL, "reach", host.host, f"its workers cannot use the database: {host.database_trouble}", to_do)
        elif host.to_database is not None:
            yield Finding(Level.OK, "reach", host.host, "its workers reach the database")
        yield from _reach_of_others(host)


def _reach_of_others(host: HostVitals) -> Iterator[Finding]:
    """What loading does without: the workers of other hosts, and the place where hosts join and come back."""
    away = {other: why for other, why in host.peers.items() if why}
    for other, why in away.items():
        to_do = (
            "loading does without; bags, dataframes and what else moves data between workers does not: open each host's worker ports to "
            "the others (any above 1023; docs/deploy.md)"
        )
        yield Finding(Level.WARN, "reach", host.host, f"its workers do not reach those of {other}: {why}", to_do)
    if host.peers and not away:
        others = words.counted(len(host.peers), "other host")
        yield Finding(Level.OK, "reach", host.host, f"its workers reach those of {others}")
    if host.joining_trouble:
        told = f"it does not reach the master where hosts join: {host.joining_trouble}"
        to_do = "open the port for joining (50052): without it the host is not let in again after a day away"
        yield Finding(Level.WARN, "reach", host.host, told, to_do)
    elif host.joining:
        yield Finding(Level.OK, "reach", host.host, f"it reaches the master where hosts join, {host.joining}")


def check_rights(found: Gathered) -> Iterator[Finding]:
    """Is the database what Protheon needs, and may the role make and use the ledger and the tables?"""
    what, server = "database", server_of(found)
    which = found.database or "of the workers"
    if found.here.database_trouble:
        yield Finding(Level.FAIL, what, which, found.here.database_trouble, "mend what it says, then ask again")
    elif found.is_unmade:
        yield Finding(Level.OK, what, which, "there is none yet: the first load makes it")
    if server is None:
        return
    yield Finding(Level.OK, what, which, f"PostgreSQL {server.version}")
    if server.is_standby:
        yield Finding(Level.FAIL, what, which, "it is a standby, which only reads", "give the address of the primary")
    elif server.is_read_only:
        to_do = "ALTER ROLE .. SET default_transaction_read_only = off, or use another role"
        yield Finding(Level.FAIL, what, which, "default_transaction_read_only is on", to_do)
    yield _ledger_rights(server, which)
    yield _table_rights(server, which)
    if not server.may_create_temporary:
        to_do = "GRANT TEMPORARY ON DATABASE .. TO the role: rows of shared tables are staged in temporary ones"
        yield Finding(Level.FAIL, "rights", which, "the role may not make temporary tables", to_do)


def _ledger_rights(server: ServerFacts, which: str) -> Finding:
    rights = "rights"
    if server.lacks:
        to_do = f"as the owner of the schema protheon: {grants('THE_ROLE')}"
        return Finding(Level.FAIL, rights, which, "the role may not use the ledger, the schema protheon", to_do)
    if not server.has_ledger:
        if server.may_create_schema:
            return Finding(Level.OK, rights, which, "there is no ledger yet, and the role may make it")
        to_do = "GRANT CREATE ON DATABASE .. TO the role, or have another role run `protheon db migrate`"
        return Finding(Level.FAIL, rights, which, "there is no ledger, and the role may not make one", to_do)
    if server.migration < server.newest_migration:
        told = f"the ledger is at migration {server.migration}, this Protheon brings {server.newest_migration}"
        return Finding(Level.WARN, rights, which, told, "the next start of a master migrates it; or `protheon db migrate` now")
    if server.migration > server.newest_migration:
        told = f"the ledger is at migration {server.migration}, this Protheon knows {server.newest_migration}"
        return Finding(Level.FAIL, rights, which, told, "upgrade Protheon here: pip install -U protheon-dask")
    return Finding(Level.OK, rights, which, f"the ledger is there, at migration {server.migration}, and the role may use it")


def _table_rights(server: ServerFacts, which: str) -> Finding:
    rights = "rights"
    if server.closed:
        to_do = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(server.closed)} TO the role, and USAGE on their schemas"
        return Finding(Level.FAIL, rights, which, f"the role may not fill {', '.join(server.closed)}", to_do)
    if not server.may_create_table:
        where = f"schema {server.schema_name}" if server.schema_name else "a schema of its search_path: none exists"
        to_do = f"GRANT CREATE ON SCHEMA {server.schema_name or 'public'} TO the role, or make the tables yourself before you load"
        return Finding(Level.WARN, rights, which, f"the role may make no tables in {where}", to_do)
    return Finding(Level.OK, rights, which, f"the role may make tables in schema {server.schema_name}")


def check_connections(found: Gathered) -> Iterator[Finding]:
    """Are there connections enough for the workers' pools, beside what others use?"""
    server = server_of(found)
    if server is None:
        return
    n_workers = found.n_workers or found.here.n_cores
    need = n_workers * WORKER_CONNECTIONS + MASTER_CONNECTIONS
    free, limit = _free_connections(server)
    told = (
        f"{words.counted(n_workers, 'worker')} and the master take up to {need} connections; {free} are there for them "
        f"({limit}; others use {server.in_use - server.ours})"
    )
    which = found.database or "of the workers"
    if need <= free:
        yield Finding(Level.OK, "connections", which, told)
        return
    most = max(0, (free - MASTER_CONNECTIONS) // WORKER_CONNECTIONS)
    to_do = (
        f"raise it (ALTER SYSTEM SET max_connections, then restart), or have at most {words.counted(most, 'worker')}; a pooler helps too"
    )
    held = n_workers * (WORKER_CONNECTIONS - 1) + MASTER_CONNECTIONS // 2  # what they hold all the time
    yield Finding(Level.WARN if held <= free else Level.FAIL, "connections", which, told, to_do)


def _free_connections(server: ServerFacts) -> tuple[int, str]:
    """Connections for Protheon, its own of now included, and by which limit."""
    others = server.in_use - server.ours
    reserved = 0 if server.is_superuser else server.reserved
    free = server.max_connections - reserved - others
    limit = f"max_connections {server.max_connections}, {reserved} of them reserved"
    if server.role_limit >= 0 and not server.is_superuser and (left := server.role_limit - server.in_use_role + server.ours) < free:
        free, limit = left, f"CONNECTION LIMIT {server.role_limit} of the role"
    if (
        server.database_limit >= 0
        and not server.is_superuser
        and (left := server.database_limit - server.in_use_database + server.ours) < free
    ):
        free, limit = left, f"CONNECTION LIMIT {server.database_limit} of the database"
    return max(0, free), limit


def check_disk(found: Gathered) -> Iterator[Finding]:
    """Has the disk room for the workspace's quota?"""
    if found.disk is None:
        if found.disk_trouble:
            to_do = "ask on the master's own host: `protheon doctor` there"
            yield Finding(Level.WARN, "workspace", found.master, found.disk_trouble, to_do)
        return
    disk = found.disk
    wanted = max(0, disk.quota_bytes - disk.used_bytes)
    told = f"{words.size(disk.free_bytes)} free in {disk.directory}, the quota is {words.size(disk.quota_bytes)}"
    if disk.used_bytes:
        told += f", {words.size(disk.used_bytes)} of it used"
    to_do = "make room, or set a smaller quota (PROTHEON_WORKSPACE_QUOTA_BYTES), or another place (PROTHEON_WORKSPACE)"
    if disk.free_bytes < SPARE_BYTES:
        yield Finding(Level.FAIL, "workspace", disk.host, told, to_do)
    elif disk.free_bytes < wanted:
        yield Finding(Level.WARN, "workspace", disk.host, f"{told}: cutting may fill the disk", to_do)
    elif disk.shared_with and disk.free_bytes < 2 * wanted:
        told += f"; the tables in {disk.shared_with} grow on the same file system"
        yield Finding(Level.WARN, "workspace", disk.host, told, to_do)
    else:
        yield Finding(Level.OK, "workspace", disk.host, told)


def check_temporary(found: Gathered) -> Iterator[Finding]:
    """Have the workers room for chunks that they do not keep in memory?"""
    for host in found.hosts:
        if not host.temporary_dir:  # an older version
            continue
        to_do = "make room, or start the workers there with TMPDIR at another place"
        if host.temporary_free_bytes is None:
            told = f"no temporary file can be made: {host.temporary_dir}"
            yield Finding(Level.FAIL, "temporary files", host.host, told, to_do)
            continue
        told = f"{words.size(host.temporary_free_bytes)} free in {host.temporary_dir}"
        if host.temporary_free_bytes < SPARE_BYTES:
            told += ", where workers keep larger chunks while they load them"
            yield Finding(Level.WARN, "temporary files", host.host, told, to_do)
        else:
            yield Finding(Level.OK, "temporary files", host.host, told)


def check_open_files(found: Gathered) -> Iterator[Finding]:
    """May processes open files enough?"""
    masters = found.scheduler if found.master else found.here
    needs: list[tuple[str, int | None, int]] = [(host.host, host.open_files, OPEN_FILES_HOST) for host in found.hosts]
    if masters is not None:
        n_workers = found.n_workers or found.here.n_cores
        needs.append((f"{masters.host} (master)", masters.open_files, OPEN_FILES_MASTER + OPEN_FILES_A_WORKER * n_workers))
    for which, limit, need in needs:
        if limit is None:
            yield Finding(Level.OK, "open files", which, "no limit")
        elif limit >= need:
            yield Finding(Level.OK, "open files", which, f"{limit:,} a process, {need:,} are needed")
        else:
            to_do = f"raise it before the start: `ulimit -n {max(4_096, need)}`, or LimitNOFILE= of its unit"
            yield Finding(Level.FAIL, "open files", which, f"{limit:,} a process, {need:,} are needed", to_do)


def check_ways(found: Gathered) -> Iterator[Finding]:
    """Are the links quick enough for the workers behind them?"""
    for host in _hosts_once(found):
        n = max(1, host.n_workers)
        if (master := host.to_master) is not None:
            told = f"{master.latency_s * 1e3:.1f} ms, {words.size(round(master.bytes_per_s))}/s from the master"
            if master.bytes_per_s < n * MASTER_SLOW_BYTES_S:
                slow = f"{told}: {_workers(host)} can take {words.size(round(n * MASTER_SLOW_BYTES_S))}/s"
                yield Finding(Level.WARN, "link", host.host, slow, "a cable in the place of Wi-Fi, or fewer workers on this host")
            else:
                yield Finding(Level.OK, "link", host.host, told)
        if (database := host.to_database) is not None:
            told = f"{database.latency_s * 1e3:.1f} ms, {words.size(round(database.bytes_per_s))}/s to the database"
            if database.latency_s > LATENCY_WARN_S:
                cost = words.duration(ROUND_TRIPS * database.latency_s)
                slow = f"{told}: a chunk of 50,000 lines waits {cost} for round trips"
                yield Finding(Level.WARN, "link", host.host, slow, "larger chunks cost no more; or a nearer host; or more workers here")
            elif database.bytes_per_s < n * DATABASE_SLOW_BYTES_S:
                slow = f"{told}: {_workers(host)} can send {words.size(round(n * DATABASE_SLOW_BYTES_S))}/s"
                yield Finding(Level.WARN, "link", host.host, slow, "a cable in the place of Wi-Fi, or fewer workers on this host")
            else:
                yield Finding(Level.OK, "link", host.host, told)


def check_bench(found: Gathered) -> Iterator[Finding]:
    """What each host makes of the built-in sample."""
    for host in _hosts_once(found):
        if host.bench_trouble:
            yield Finding(Level.FAIL, "bench", host.host, host.bench_trouble, "see the log of its workers")
        if (bench := host.benched) is None:
            continue
        stages = [("decompress", bench.decompress_lines_per_s), ("transform", bench.transform_lines_per_s)]
        if bench.copy_lines_per_s:
            stages.append(("copy", bench.copy_lines_per_s))
        each = ", ".join(f"{name} {words.count(round(rate))}" for name, rate in stages)
        processes = words.counted(bench.n_processes, "process", "processes")
        told = f"{words.count(round(bench.lines_per_s))} lines/s of the sample with {processes} ({each})"
        if bench.copy_trouble and server_of(found) is not None:
            yield Finding(Level.WARN, "bench", host.host, f"{told}; copy was not measured: {bench.copy_trouble}", "mend what it says")
        else:
            yield Finding(Level.OK, "bench", host.host, told)


def best_master(found: Gathered) -> tuple[str, str]:
    """Which host should be the master, and why: memory and disk enough, always on, and of those the nearest to the database.

    The one that is stays, unless another is better by something that a run would notice. Empty: nothing that was measured says it.
    """
    now = found.scheduler
    hosts = list(_hosts_once(found))
    if now is not None and all(host.host != now.host for host in hosts):
        hosts.append(now)
    known = {host.host: (host, host.to_database.latency_s) for host in hosts if host.to_database is not None}
    if not known or (now is not None and now.host not in known):
        return "", ""
    able = {name for name, (host, _) in known.items() if _is_able(host)}
    steady = {name for name in able if not known[name][0].has_battery}
    candidates = steady or able or known.keys()
    least_s = min(known[name][1] for name in candidates)
    near = [known[name][0] for name in candidates if known[name][1] <= least_s + EVEN_S]
    best = min(near, key=lambda host: (now is None or host.host != now.host, -host.disk_free_bytes, host.host))
    reasons = [f"{known[best.host][1] * 1e3:.1f} ms to the database"]
    reasons.append(("" if best.host in able else "though it has only ") + _means(best))
    reasons.append("it has a battery: see that it does not sleep" if best.has_battery else "no battery: it may stay on")
    if now is not None and best.host == now.host:
        reasons.insert(0, "it is the master now")
    elif now is not None:
        present, latency_s = known[now.host]
        if now.host in candidates:
            why = f"is {latency_s * 1e3:.1f} ms from it"
        else:
            why = "has a battery" if now.host in able else f"has only {_means(present)}"
        reasons.insert(1, f"{now.host}, the master now, {why}")
    return best.host, "; ".join(reasons)


def _is_able(host: HostVitals) -> bool:
    return host.memory_bytes >= LEAST_MASTER_MEMORY_BYTES and host.disk_free_bytes >= LEAST_MASTER_DISK_BYTES


def _means(host: HostVitals) -> str:
    return f"{words.size(host.memory_bytes)} of memory, {words.size(host.disk_free_bytes)} of free disk"


def server_of(found: Gathered) -> ServerFacts | None:
    """What the database said: to this machine, else to the first host that it answered."""
    return next((host.server for host in (found.here, *found.hosts) if host.server is not None), None)


def _hosts_once(found: Gathered) -> Sequence[HostVitals]:
    """This machine and the hosts of workers; one that is both, as its workers see it."""
    return [*([found.here] if all(host.host != found.here.host for host in found.hosts) else []), *found.hosts]


def _workers(host: HostVitals) -> str:
    return f"its {words.counted(host.n_workers, 'worker')}" if host.n_workers else "a worker here"


CHECKS: Final = (
    check_master,
    check_versions,
    check_clocks,
    check_certificates,
    check_reach,
    check_rights,
    check_connections,
    check_disk,
    check_temporary,
    check_open_files,
    check_ways,
    check_bench,
)
