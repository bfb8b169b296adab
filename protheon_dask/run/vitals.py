"""What `protheon doctor` finds on a host, in values: gathered by run.gathering, judged by run.doctor. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protheon_dask.broker.cluster_wire import Versions
from protheon_dask.ledger.fitness import ServerFacts, ServerWay


@dataclass(frozen=True, slots=True)
class MasterWay:
    """The way to the master, and its clock. Units: clock_offset_s: the host's clock less the master's, right within clock_error_s."""

    latency_s: float
    bytes_per_s: float  # from the master: the way of chunks
    clock_offset_s: float
    clock_error_s: float


@dataclass(frozen=True, slots=True)
class Benched:
    """What one process, or all of a host's, did with the built-in sample, one stage after the other.

    Units: lines a second of each stage, as if it were alone; copy_lines_per_s None: nothing could be copied, copy_trouble says why.
    """

    decompress_lines_per_s: float
    transform_lines_per_s: float
    copy_lines_per_s: float | None = None
    copy_trouble: str = ""
    n_processes: int = 1

    @property
    def lines_per_s(self) -> float:
        """Of all stages one after the other, as a worker has them; without copy where that is not known."""
        stages = (self.decompress_lines_per_s, self.transform_lines_per_s, self.copy_lines_per_s)
        return 1 / sum(1 / stage for stage in stages if stage)

    @property
    def cpu_lines_per_s(self) -> float:
        """Of the stages that need no database."""
        return 1 / (1 / self.decompress_lines_per_s + 1 / self.transform_lines_per_s)

    def plus(self, other: Benched) -> Benched:
        """Two processes of a host together."""
        copied = (self.copy_lines_per_s, other.copy_lines_per_s)
        return Benched(
            self.decompress_lines_per_s + other.decompress_lines_per_s,
            self.transform_lines_per_s + other.transform_lines_per_s,
            None if None in copied else sum(filter(None, copied)),
            self.copy_trouble or other.copy_trouble,
            self.n_processes + other.n_processes,
        )


@dataclass(frozen=True, slots=True)
class HostVitals:
    """One host, as a process on it found it. A trouble is why what it is about is not known; empty: nothing stood in the way."""

    host: str
    version: str  # of Protheon
    versions: Versions
    n_cores: int
    memory_bytes: int
    disk_free_bytes: int  # where the workspace is, or would be
    open_files: int | None  # that a process may have; None: the system sets no limit, or has no such thing
    has_battery: bool
    temporary_dir: str = ""  # of its processes: larger chunks lie there while they are loaded; empty: an older version looked
    temporary_free_bytes: int | None = None  # None: there is no such directory, and temporary_dir says why
    n_workers: int = 0  # worker processes that answered there
    to_master: MasterWay | None = None
    master_trouble: str = ""
    joining: str = ""  # host:port of the master where hosts join, and come back, as reached from there; empty: nobody looked
    joining_trouble: str = ""
    peers: Mapping[str, str] = field(default_factory=dict)  # other hosts: why their workers are not reached from there; empty: they are
    to_database: ServerWay | None = None
    server: ServerFacts | None = None
    database_trouble: str = ""
    benched: Benched | None = None
    bench_trouble: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of the workspace. shared_with: the data of the embedded PostgreSQL, where they are on the same file system."""

    host: str
    directory: str
    free_bytes: int
    quota_bytes: int
    used_bytes: int  # chunk files that are there: a part of the quota that is taken from the disk already
    shared_with: str = ""


@dataclass(frozen=True, slots=True)
class HostTold:
    """A host as the master tells of it. until_s: seconds of the epoch until which its certificate is good; None: it has none."""

    name: str
    aside: str = ""
    until_s: float | None = None
    n_workers: int = 0


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that was found. here: this machine; hosts: those with workers, by the way of the master's scheduler."""

    here: HostVitals
    master: str = ""  # its gRPC address; empty: none was asked
    master_trouble: str = ""
    master_version: str = ""
    master_versions: Versions | None = None
    scheduler: HostVitals | None = None  # the master's own host, told by the scheduler's process
    scheduler_trouble: str = ""
    hosts: tuple[HostVitals, ...] = ()
    told: tuple[HostTold, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)  # workers that did not answer, and why
    database: str = ""  # which, for people; empty: none was asked from here
    is_unmade: bool = False  # it is the embedded one, and the first load makes it
    disk: Disk | None = None  # of the master, or of this machine
    disk_trouble: str = ""
    now_s: float = 0.0  # this machine's clock, seconds of the epoch

    @property
    def n_workers(self) -> int:
        """Worker processes that there are, whether they answered or not."""
        return sum(host.n_workers for host in self.hosts) + len(self.silent)
