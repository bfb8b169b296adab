"""The cluster's own certificate authority, on the master: whom it invited, which hosts it admitted, which it removed.

It is a directory, ``<home>/authority``, of its owner alone: ca.pem, ca.key, hosts.json, invites.json, lock.
"""

from __future__ import annotations

import hmac
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from protheon_dask.broker.tls import MASTER_NAME, join_no_of
from protheon_dask.errors import ConfigError, MissingSetting, NotAllowed, NotFound, TransientError
from protheon_dask.run.settings import AUTHORITY_DIR
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.host_names import check_host_name
from protheon_dask.run.trust.join_token import INVITE_BYTES, SECRET_BYTES, JoinToken, check_address, secret_hash
from protheon_dask.run.trust.owner_files import check_owner_alone, locked, make_home, replace_file, sync_directory
from protheon_dask.workspace.chunkfile import OWNER_DIR

CA_CERTIFICATE, CA_KEY, HOSTS, INVITES, LOCK = "ca.pem", "ca.key", "hosts.json", "invites.json", "lock"
LOCK_S: Final = 30.0
"""A change takes milliseconds; who waits longer is told."""
MAX_WRONG: Final = 5
"""Wrong secrets after which an invite is void: nobody mistypes a token that was pasted, its CRC would tell."""
MAX_TTL_S: Final = 30 * 86400.0
MAX_USES: Final = 1000
KEPT: Final = timedelta(days=1)
"""An invite that is over is remembered for so long, to tell its guest why it is refused."""
RETURN_FOR: Final = timedelta(days=30)
"""So long after its certificate ended a host can come back by its key alone: a holiday, and no more than an invite lives.
Its name is kept for it as long."""
REMEMBERED_FOR: Final = 2 * RETURN_FOR
"""So long after its certificate ended a host is remembered, and told why it is refused. Each container that was replaced was a host."""
REMEMBERED_HOSTS: Final = 100
"""So many are remembered however long ago that was: a clock that is months ahead for an hour must not make it forget its hosts."""
_NO_HASH: Final = secret_hash(b"")
"""Compared with where there is no invite, so that the answer takes as long."""

_T = TypeVar("_T")


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A host that was admitted."""

    name: str
    joined_at: datetime
    until_at: datetime  # the end of the last certificate that it was given
    join_no: int  # how often it joined, from 1: certificates of an earlier joining are refused
    is_master: bool = False
    removed_at: datetime | None = None
    key_sha256: str = ""  # of the public key in that certificate; empty: it was given before this was kept


class _Hosts(msgspec.Struct, frozen=True, kw_only=True):
    """hosts.json."""

    addresses: tuple[str, ...] = ()  # of the master, for tokens
    hosts: tuple[HostRecord, ...] = ()


class _Invite(msgspec.Struct, frozen=True, kw_only=True):
    """An invite; of its secret only a hash is kept."""

    id: str
    secret_sha256: str
    until_at: datetime
    uses: int
    joined: dict[str, str] = {}  # by host: the hash of its public key; a host whose answer was lost asks again
    n_used: int = 0
    n_wrong: int = 0


class _Invites(msgspec.Struct, frozen=True, kw_only=True):
    """invites.json."""

    invites: tuple[_Invite, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """What a host gets when it joins: nothing in it is secret."""

    certificate_pem: bytes
    ca_pem: bytes
    host: str


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Authority:
    """Signs certificates of hosts, and remembers whom it trusts.

    Guarantee: thread-safe, and safe with other processes: every change is made under one lock, and a file is replaced whole. After
               kill -9 each file is as it was before the change or after it; who was cut off asks again, and no use counts twice.
    """

    def __init__(self, directory: Path, clock: Callable[[], datetime] = _utc_now) -> None:
        self.directory, self._clock = directory, clock
        self.ca_pem = _read(directory / CA_CERTIFICATE)
        self._ca = certificates.from_pem(self.ca_pem)
        self._seen: tuple[tuple[int, int, int], Mapping[str, HostRecord]] | None = None

    @classmethod
    def create(cls, home: Path, clock: Callable[[], datetime] = _utc_now) -> Self:
        """Make the authority below home; all of it or nothing.

        Raises: ConfigError: there is one already; it is left alone.
        """
        directory = home / AUTHORITY_DIR
        make_home(home)
        with locked(home / f"{AUTHORITY_DIR}.lock", "the authority", LOCK_S):
            if directory.exists():
                raise ConfigError(f"there is an authority already: {directory}; hosts that joined trust it, so it is left alone")
            making = home / f"{AUTHORITY_DIR}.new"
            if making.exists():  # of a command that was killed
                shutil.rmtree(making)
            making.mkdir(mode=OWNER_DIR)
            key = certificates.make_key()
            replace_file(making / CA_KEY, certificates.key_to_pem(key))
            replace_file(making / CA_CERTIFICATE, certificates.to_pem(certificates.make_ca(key, clock())))
            replace_file(making / HOSTS, msgspec.json.encode(_Hosts()))
            replace_file(making / INVITES, msgspec.json.encode(_Invites()))
            making.rename(directory)
            sync_directory(home)
        return cls(directory, clock)

    @classmethod
    def open(cls, home: Path, clock: Callable[[], datetime] = _utc_now) -> Self:
        """Raises: MissingSetting: there is none. ConfigError: others than its owner can reach it, or it is damaged."""
        directory = home / AUTHORITY_DIR
        if not directory.is_dir():
            raise MissingSetting(f"there is no authority at {directory}: `protheon cluster init` makes one, on the master alone")
        check_owner_alone(directory)
        for name in (CA_KEY, HOSTS, INVITES):
            if not (directory / name).is_file():
                raise ConfigError(f"{directory / name} is missing: put it back from a copy of the directory")
            check_owner_alone(directory / name)
        return cls(directory, clock)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the authority's certificate in DER: what hosts know it by."""
        return certificates.fingerprint(self._ca)

    # -- hosts ----------------------------------------------------------------------------------------------------------------------

    def hosts(self) -> Sequence[HostRecord]:
        """All that were admitted, by name; of those that nobody has heard of for REMEMBERED_FOR the last ones alone."""
        return sorted(self._known().values(), key=lambda host: host.name)

    def is_removed(self, host: str, serial_no: int | None = None) -> bool:
        """Is nothing of this host accepted? So it is with one that was removed, or that this authority does not know.

        serial_no: of the certificate that it shows: one from before the host was removed and joined again is refused.
        Raises:    ConfigError: hosts.json is damaged: trust nobody then.
        Guarantee: costs one stat() while nothing changed.
        """
        record = self._known().get(host)
        if record is None or record.removed_at is not None:
            return True
        return serial_no is not None and join_no_of(serial_no) != record.join_no

    def remove(self, host: str) -> int:
        """Trust this host no more, and withdraw every invite that is open: it may have read one. Returns how many those were.

        Raises: NotFound: there is no such host. ConfigError: it is the master.
        Guarantee: safe to repeat.
        """
        with self._changing():
            hosts = self._hosts()
            record = _by_name(hosts).get(host)
            if record is None:
                known = ", ".join(sorted(_by_name(hosts))) or "none"
                raise NotFound(f"there is no host {host[:80]!r}; there are: {known}")
            if record.is_master:
                raise ConfigError(f"{host} is the master, which is not removed: a new authority on another machine takes its place")
            n_withdrawn = self._withdraw()
            if record.removed_at is None:
                self._put(hosts, msgspec.structs.replace(record, removed_at=self._clock()))
        return n_withdrawn

    def admit_master(self, csr_pem: bytes, host: str) -> Admission:
        """A certificate for the master itself, by which hosts know it; also to renew it. Only who has the directory can ask.

        Raises: ConfigError: another host is the master, or one of this name has joined; or of the request.
        """
        check_host_name(host)
        key = certificates.requested_key(csr_pem)
        with self._changing():
            hosts = self._hosts()
            record = _by_name(hosts).get(host)
            master = next((known for known in hosts.hosts if known.is_master), None)
            if master is not None and master.name != host:
                raise ConfigError(f"this cluster's master is {master.name}, not {host}: leave --name out, or give that one")
            if record is not None and not record.is_master:
                raise ConfigError(f"a host {host} has joined this cluster already: give the master another name")
            now = self._clock()
            joined_at, join_no = (now, 1) if record is None else (record.joined_at, record.join_no)
            return self._sign(hosts, key, HostRecord(name=host, joined_at=joined_at, until_at=now, join_no=join_no, is_master=True))

    def renew(self, host: str, csr_pem: bytes, serial_no: int | None = None) -> bytes:
        """A new certificate in PEM for a host that showed its present one (with that serial number).

        Raises: NotAllowed: it was removed. ConfigError: of the request.
        """
        key = certificates.requested_key(csr_pem)
        with self._changing():
            hosts = self._hosts()
            record = _by_name(hosts).get(host)
            if record is None or self.is_removed(host, serial_no):
                raise _was_removed(host)
            return self._sign(hosts, key, record).certificate_pem

    def take_back(self, host: str, csr_pem: bytes) -> bytes:
        """A new certificate in PEM, of the same joining, for a host that was away until its last one had ended.

        All that it shows is its request, signed by the key that was certified last: as much as a handshake by a certificate that is still
        good. Who has seen such a request may send it again, and gets a certificate for that host's own key: without the private key,
        which never travels, neither is worth anything. It may also ask while the certificate is still good: the answer was lost, or the
        clocks differ.

        Raises: NotAllowed: it is unknown by this key, was removed, is the master, or was away for RETURN_FOR. ConfigError: of the request.
        Guarantee: a stranger's request changes no file, and waits for no lock. What is wrong is told only to who has the key.
        """
        key = certificates.requested_key(csr_pem)
        self._returning(self._known(), host, key)
        with self._changing():
            hosts = self._hosts()
            return self._sign(hosts, key, self._returning(_by_name(hosts), host, key)).certificate_pem

    def _returning(self, hosts: Mapping[str, HostRecord], host: str, key: EllipticCurvePublicKey) -> HostRecord:
        """The record of a host that may come back. Raises NotAllowed."""
        record = hosts.get(host)
        if record is None or record.key_sha256 != certificates.key_hash(key):
            raise NotAllowed(
                f"this master knows no host {host[:80]!r} by this key: `protheon cluster invite` there prints the line to join again by"
            )
        if record.removed_at is not None:
            raise _was_removed(host)
        if record.is_master:
            raise NotAllowed(f"{host} is the master, which renews its certificate by its own authority: start it there")
        if self._clock() >= record.until_at + RETURN_FOR:
            raise NotAllowed(
                f"the certificate of host {host} ended at {record.until_at:%Y-%m-%d %H:%M} UTC, more than {RETURN_FOR.days} days ago: "
                "`protheon cluster invite` on the master prints the line to join again by"
            )
        return record

    # -- invites --------------------------------------------------------------------------------------------------------------------

    def addresses(self) -> Sequence[str]:
        """Where the master was said to be reached, as host:port of its joining port; empty: nothing was said."""
        return self._hosts().addresses

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Raises ConfigError: one of them is no host:port."""
        checked = tuple(check_address(address) for address in addresses)
        with self._changing():
            self._write(HOSTS, msgspec.structs.replace(self._hosts(), addresses=checked))

    def invite(self, ttl_s: float, uses: int, addresses: Sequence[str]) -> str:
        """A token by which so many hosts can join within that time; its text is kept nowhere.

        Raises: ConfigError: a number out of its range, no address, or too many.
        """
        if not 0 < ttl_s <= MAX_TTL_S:
            raise ConfigError(f"an invite lives for more than 0 s and at most {MAX_TTL_S / 86400:.0f} days, not {ttl_s:g} s")
        if not 1 <= uses <= MAX_USES:
            raise ConfigError(f"an invite is for 1 to {MAX_USES} hosts, not {uses}")
        if not addresses:
            raise ConfigError("this machine has no address that others could reach: give one with --address HOST:PORT")
        token = JoinToken(
            tuple(check_address(address) for address in addresses),
            self.fingerprint,
            secrets.token_bytes(INVITE_BYTES),
            secrets.token_bytes(SECRET_BYTES),
        )
        text, now = token.text(), self._clock()
        made = _Invite(id=token.invite.hex(), secret_sha256=secret_hash(token.secret), until_at=now + timedelta(seconds=ttl_s), uses=uses)
        with self._changing():
            kept = [invite for invite in self._invites().invites if invite.until_at + KEPT > now]
            self._write(INVITES, _Invites(invites=(*kept, made)))
        return text

    def withdraw(self) -> int:
        """Make every invite void. Returns how many were open. Safe to repeat."""
        with self._changing():
            return self._withdraw()

    def _withdraw(self) -> int:
        now, invites = self._clock(), self._invites().invites
        self._write(INVITES, _Invites())
        return sum(invite.until_at > now and invite.n_used < invite.uses and invite.n_wrong < MAX_WRONG for invite in invites)

    def admit(self, invite_id: bytes, secret: bytes, csr_pem: bytes, host: str) -> Admission:
        """A certificate for a host with a valid token. Of its request only the public key counts.

        A host whose answer was lost asks again with the same token, name and key, and is answered again.

        Raises: NotAllowed: the token is none of ours, is over or used up, or the host's name is taken. ConfigError: of name or request.
        Guarantee: one use of a token admits one host, however many ask at once.
        """
        check_host_name(host)
        key = certificates.requested_key(csr_pem)
        with self._changing():
            now, invites, hosts = self._clock(), self._invites().invites, self._hosts()
            invite = self._invited(invites, invite_id.hex(), secret, now)
            record = _by_name(hosts).get(host)
            is_known = record is not None and record.removed_at is None
            is_again = invite.joined.get(host) == certificates.key_hash(key)
            if record is not None and is_known and is_again:
                return self._sign(hosts, key, record)
            join_no = 1 if record is None else record.join_no + 1
            if not is_again:  # else the use was spent, and a kill came between the two files
                if invite.n_used >= invite.uses:
                    raise NotAllowed(f"this token is used up: it was for {invite.uses}; `protheon cluster invite` makes a new one")
                if record is not None and is_known and (record.is_master or record.until_at + RETURN_FOR > now):
                    raise NotAllowed(
                        f"a host {host} is in this cluster already: `protheon worker` without --join is enough on that one; another one "
                        "joins under another name (--name); and if this is that machine set up anew, "
                        f"`protheon cluster remove {host}` on the master, and a new invite"
                    )
                if join_no > certificates.MAX_JOIN_NO:
                    raise NotAllowed(f"host {host} has joined too often: join under another name")
                joined = {**invite.joined, host: certificates.key_hash(key)}
                self._put_invite(invites, msgspec.structs.replace(invite, n_used=invite.n_used + 1, joined=joined))
            last = sorted(hosts.hosts, key=lambda known: known.until_at)[-REMEMBERED_HOSTS:]
            known = tuple(known for known in hosts.hosts if known.is_master or known in last or known.until_at + REMEMBERED_FOR > now)
            admitted = HostRecord(name=host, joined_at=now, until_at=now, join_no=join_no)
            return self._sign(msgspec.structs.replace(hosts, hosts=known), key, admitted)

    def _invited(self, invites: tuple[_Invite, ...], invite_id: str, secret: bytes, now: datetime) -> _Invite:
        """The invite that this secret belongs to. Why it is over is told only to who knows the secret."""
        invite = next((known for known in invites if known.id == invite_id), None)
        is_right = hmac.compare_digest(invite.secret_sha256 if invite else _NO_HASH, secret_hash(secret))
        if invite is None or not is_right:
            if invite is not None:
                self._put_invite(invites, msgspec.structs.replace(invite, n_wrong=invite.n_wrong + 1))
            raise NotAllowed("this token is not valid here: it was withdrawn, or is none of this cluster; ask its owner for a new one")
        if invite.n_wrong >= MAX_WRONG:
            raise NotAllowed(f"this token is void: {invite.n_wrong} times somebody gave a wrong secret for it; ask for a new one")
        if invite.until_at <= now:
            raise NotAllowed(f"this token expired at {invite.until_at:%Y-%m-%d %H:%M} UTC: `protheon cluster invite` makes a new one")
        return invite

    # -- files ----------------------------------------------------------------------------------------------------------------------

    def _sign(self, hosts: _Hosts, key: EllipticCurvePublicKey, record: HostRecord) -> Admission:
        """Sign for this host, and record it; under the lock."""
        certificate = certificates.sign_host(
            self._ca,
            certificates.key_from_pem(_read(self.directory / CA_KEY)),
            key,
            host=record.name,
            join_no=record.join_no,
            more_names=(MASTER_NAME,) if record.is_master else (),
            now=self._clock(),
        )
        key_sha256 = certificates.key_hash(key)
        self._put(hosts, msgspec.structs.replace(record, until_at=certificate.not_valid_after_utc, key_sha256=key_sha256))
        return Admission(certificates.to_pem(certificate), self.ca_pem, record.name)

    def _changing(self) -> AbstractContextManager[None]:
        return locked(self.directory / LOCK, "the authority", LOCK_S)

    def _known(self) -> Mapping[str, HostRecord]:
        """Hosts by name, read anew only when the file was replaced."""
        path = self.directory / HOSTS
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            seen = self._seen  # once: another thread may replace it
            if seen is None or seen[0] != stamp:
                seen = self._seen = (stamp, _by_name(self._hosts()))
        except OSError as exc:
            raise ConfigError(f"{path} cannot be read: {exc.strerror}; until it can, no host is trusted") from exc
        return seen[1]

    def _hosts(self) -> _Hosts:
        return _decoded(self.directory / HOSTS, _Hosts)

    def _invites(self) -> _Invites:
        return _decoded(self.directory / INVITES, _Invites)

    def _put(self, hosts: _Hosts, record: HostRecord) -> None:
        others = tuple(host for host in hosts.hosts if host.name != record.name)
        self._write(HOSTS, msgspec.structs.replace(hosts, hosts=(*others, record)))

    def _put_invite(self, invites: tuple[_Invite, ...], changed: _Invite) -> None:
        self._write(INVITES, _Invites(invites=tuple(changed if invite.id == changed.id else invite for invite in invites)))

    def _write(self, name: str, value: msgspec.Struct) -> None:
        try:
            replace_file(self.directory / name, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
        except OSError as exc:  # a disk that is full
            raise TransientError(f"{self.directory / name} cannot be written: {exc.strerror}; it is as it was before") from exc


def _was_removed(host: str) -> NotAllowed:
    return NotAllowed(
        f"host {host[:80]} was removed from this cluster: to let it in again, `protheon cluster invite` and join by its token"
    )


def _by_name(hosts: _Hosts) -> Mapping[str, HostRecord]:
    return {host.name: host for host in hosts.hosts}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}; put it back from a copy of the directory") from exc


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(_read(path), type=kind)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"{path} is damaged: {exc}; put it back from a copy of the directory") from exc
