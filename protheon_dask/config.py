"""Every setting of Protheon in one place: defaults < file < ``PROTHEON_*`` < flags or keywords.

The rim reads the environment and the file once and hands them in; below it, settings are values. All problems are reported at once,
and the relations that matter are checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import unquote

from protheon_dask.errors import ConfigError
from protheon_dask.model import Cost
from protheon_dask.policy import RejectLimit, RetryPolicy

MIB = 1 << 20
GIB = 1 << 30
MAX_PORT = 65_535

SECRETS = ("database_url", "direct_url")
MASKED = "(masked)"


def _setting(default: Any, meaning: str, *, shown: bool = True) -> Any:
    return field(default=default, repr=shown, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Effective settings. Each is ``PROTHEON_<NAME>`` in the environment and ``name = value`` in the file."""

    # leases and loss
    lease_s: float = _setting(60.0, "a worker may be silent this long before its task is taken")
    renew_s: float = _setting(15.0, "renewal period of leases; three fit in a lease, so that one lost packet is not a lost lease")
    stall_s: float = _setting(120.0, "an attempt without a byte, a row or a statement in flight for this long has crashed")
    complete_grace_s: float = _setting(30.0, "a commit in progress is left alone this long after its lease")
    exit_grace_s: float = _setting(10.0, "what a stopping process is given before it is killed")
    advisory_wait_s: float = _setting(15.0, "a data transaction waits this long for the one before it on the same task")
    # retries
    dead_at_failures: int = _setting(5, "a task is dead at this many failures of its pipeline or data")
    dead_at_crashes: int = _setting(3, "a task is dead when its worker process died alone, or stalled, this often")
    dead_at_losses: int = _setting(20, "a task is dead when host, nanny or network was lost this often")
    backoff_base_s: float = _setting(2.0, "first pause after a failure; it doubles")
    backoff_cap_s: float = _setting(900.0, "longest pause after a failure")
    backoff_jitter: float = _setting(0.1, "spread of the pauses, a fraction")
    # geometry
    chunk_lines: int = _setting(50_000, "most lines of a chunk; `auto` goes below it for small sources")
    max_chunk_bytes: int = _setting(512 * MIB, "most raw bytes of a chunk")
    max_line_bytes: int = _setting(64 * MIB, "a longer line is a chunk by itself, and a reject")
    batch_lines: int = _setting(2_000, "most lines that are transformed and copied at a time")
    batch_bytes: int = _setting(16 * MIB, "most raw bytes of a batch, or one line")
    # dispatch
    window_per_thread: int = _setting(3, "tasks with Dask for each worker thread")
    splitters: int = _setting(0, "sources that are cut at a time; 0: one for each two cores")
    workspace_quota_bytes: int = _setting(0, "chunk files that wait for a worker; 0: the smaller of 20 GiB and 20 % of the disk")
    parked_quota_bytes: int = _setting(
        2 * GIB, "chunk files of tasks in backoff and of dead ones; beyond it they are cut again when wanted"
    )
    pinned_quota_bytes: int = _setting(0, "chunk files that cluster.chunks() keeps; 0: half of what runs have")
    # rejects
    reject_limit: str = _setting("50%", "rejected lines that a run bears: a number, or a percentage from 10,000 lines on")
    # places
    database_url: str = _setting("", "the PostgreSQL to load into; empty: DATABASE_URL, libpq's own, or the embedded one", shown=False)
    direct_url: str = _setting(
        "", "the same PostgreSQL without its pooler, for leadership and migrations; only beside database_url", shown=False
    )
    home: str = _setting("", "where the embedded PostgreSQL, the workspace and the keys live; empty: the user's data directory")
    workspace: str = _setting("", "where chunk files wait; empty: below home")
    postgres_bin: str = _setting("", "directory of PostgreSQL's programs for the embedded server; empty: the extra's, then the system's")
    # ports, on loopback; the embedded start takes any other where one is taken
    broker_port: int = _setting(50051, "gRPC")
    scheduler_port: int = _setting(8786, "Dask's scheduler")
    dashboard_port: int = _setting(8787, "Dask's dashboard")
    http_port: int = _setting(8080, "the broker's HTTP: /metrics, /workers, /healthz")
    join_port: int = _setting(50052, "where hosts join by a token, over HTTPS")
    # other hosts
    tls_dir: str = _setting("", "this host's certificate and key, and the authority's; empty: below home, if it was made or joined there")
    source_roots: str = _setting(
        "", "directories and URL prefixes that clients of other hosts may name, with the system's path separator between"
    )

    def __post_init__(self) -> None:
        problems = []
        if self.lease_s < 3 * self.renew_s:
            problems.append(f"lease_s={self.lease_s:g} must be at least 3 * renew_s={self.renew_s:g}")
        if self.exit_grace_s >= self.lease_s:
            problems.append(
                f"exit_grace_s={self.exit_grace_s:g} must be below lease_s={self.lease_s:g}: else two attempts run side by side"
            )
        if self.stall_s < self.lease_s:
            problems.append(f"stall_s={self.stall_s:g} must be at least lease_s={self.lease_s:g}")
        if self.max_line_bytes > self.max_chunk_bytes:
            problems.append(f"max_line_bytes={self.max_line_bytes} must not exceed max_chunk_bytes={self.max_chunk_bytes}")
        if self.backoff_jitter >= 1:
            problems.append(f"backoff_jitter={self.backoff_jitter:g} must be below 1")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                continue
            if not math.isfinite(value):
                problems.append(f"{item.name}={value:g} must be a finite number")
            elif item.name in _PORTS and not 0 <= value <= MAX_PORT:
                problems.append(f"{item.name}={value} must be a port, 0 to {MAX_PORT}")
            elif value < 0:
                problems.append(f"{item.name}={value:g} must not be negative")
            elif value == 0 and item.name not in _ZERO_ALLOWED:
                problems.append(f"{item.name}=0 must be positive")
        try:
            parse_reject_limit(self.reject_limit)
        except ConfigError as exc:
            problems.append(str(exc))
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def retry_policy(self) -> RetryPolicy:
        caps = {Cost.FAILURE: self.dead_at_failures, Cost.CRASH: self.dead_at_crashes, Cost.LOSS: self.dead_at_losses}
        return RetryPolicy(caps, self.backoff_base_s, self.backoff_cap_s, self.backoff_jitter)

    @classmethod
    def read(cls, env: Mapping[str, str], file: Mapping[str, Any], given: Mapping[str, Any]) -> Effective:
        """Merge the four origins; given holds flags and keywords (None: not given). Raises ConfigError with every problem."""
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        problems: list[str] = []
        known = {item.name: item for item in fields(cls)}
        problems += [f"the file names an unknown setting {name!r}" for name in file if name not in known]
        problems += [f"there is no setting {name!r}" for name in given if name not in known]
        for name, item in known.items():
            variable = f"PROTHEON_{name.upper()}"
            for origin, source, key in (("file", file, name), (variable, env, variable), ("flag", given, name)):
                raw = source.get(key)
                if raw is None or (source is env and raw == "" and item.default != ""):
                    continue  # an emptied variable says "empty" where that is a value, and nothing elsewhere
                try:
                    values[name] = _parse(item.type, raw)
                    origins[name] = origin
                except ValueError:
                    problems.append(f"{key}={raw!r} ({origin}) is not {_KINDS[str(item.type)]}")
        if problems:
            raise ConfigError("; ".join(problems))
        return Effective(cls(**values), {name: origins.get(name, "default") for name in known})


_PORTS = {"broker_port", "scheduler_port", "dashboard_port", "http_port", "join_port"}  # 0: any that is free
_ZERO_ALLOWED = {"backoff_jitter", "splitters", "workspace_quota_bytes", "pinned_quota_bytes"} | _PORTS
_KINDS = {"float": "a number", "int": "a whole number", "str": "text"}


def _parse(kind: Any, raw: Any) -> Any:
    if kind == "str":
        return str(raw)
    return int(str(raw).replace("_", "")) if kind == "int" else float(raw)


@dataclass(frozen=True, slots=True)
class Effective:
    """Settings, and where each came from: ``default``, ``file``, the variable's name, or ``flag``."""

    settings: Settings
    origins: Mapping[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """Each setting: name, value (secrets masked), origin, meaning."""
        return [
            {
                "name": item.name,
                "value": mask(getattr(self.settings, item.name)) if item.name in SECRETS else getattr(self.settings, item.name),
                "origin": self.origins[item.name],
                "meaning": item.metadata["meaning"],
            }
            for item in fields(self.settings)
        ]


_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*")
_HOST = r"(?:\[[^\[\]@/]*\]|[^:@/\[\]]*)(?::[0-9]*)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")  # libpq takes several
_PAIRS = re.compile(r"\s*(?:\w+\s*=\s*(?:'(?:[^'\\]|\\.)*'|[^\s'=@]+)(?:\s+|$))*")  # host=db dbname = 'x y'
_SECRET = re.compile("password|secret", re.IGNORECASE)


def mask(url: str) -> str:
    """A database URL, or libpq's ``name=value`` pairs, without the password; ``(masked)`` where it might be anywhere.

    Guarantee: a text that is no valid URL shows nothing of a password either: ``@ / ? :`` in it, not encoded, move the borders
    of the other parts, and what then looks like a host or a database is not shown.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return MASKED if _SECRET.search(url) or not _PAIRS.fullmatch(url) else url
    place, _, query = rest.partition("?")
    user_info, at, where = place.rpartition("@")
    hosts = where.partition("/")[0]
    if not _SCHEME.fullmatch(scheme) or not _HOSTS.fullmatch(hosts) or "@" in query or _SECRET.search(unquote(query)):
        return MASKED
    user, colon, _ = user_info.partition(":")
    return url if not (at and colon) else f"{scheme}://{user}:***@{rest[len(user_info) + 1 :]}"


def scheme_and_host(url: str) -> str:
    """What names a URL of another product in a message: no user, no password, no query; "" for a text that is no URL."""
    scheme, separator, _ = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return ""
    shown = mask(url)
    if shown == MASKED:
        return f"{scheme}://"
    place = shown.partition("://")[2].partition("?")[0].rpartition("@")[2]
    return f"{scheme}://{place.partition('/')[0]}"


def parse_reject_limit(text: str) -> RejectLimit:
    """Read ``1000`` or ``5%``. Raises ConfigError."""
    raw = text.strip()
    try:
        if raw.endswith("%"):
            fraction = float(raw[:-1]) / 100
            if 0 <= fraction <= 1:
                return RejectLimit(fraction=fraction)
        elif int(raw) >= 0:
            return RejectLimit(lines=int(raw))
    except ValueError:
        pass
    raise ConfigError(f"reject limit {text!r}: give a number of lines, such as 1000, or a percentage within 0% and 100%")


def environment(settings: Settings) -> dict[str, str]:
    """Variables that hand these settings to a child process of ours: all of them, so that neither a variable that the child
    inherits nor the settings file has a say in it.
    """
    return {f"PROTHEON_{item.name.upper()}": str(getattr(settings, item.name)) for item in fields(settings)}


__all__ = ["Effective", "Settings", "environment", "mask", "parse_reject_limit", "scheme_and_host"]
