"""The authority on a real directory: whom it admits, whom it refuses, and what a kill leaves of its files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from protheon_dask.broker.tls import join_no_of
from protheon_dask.errors import ConfigError, MissingSetting, NotAllowed, NotFound
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.authority import CA_KEY, HOSTS, INVITES, MAX_WRONG, REMEMBERED_FOR, RETURN_FOR, Admission, Authority
from protheon_dask.run.trust.join_token import JoinToken
from tests.fixtures import tls

NOWHERE = tls.NOWHERE


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.create(tmp_path, clock)


def request(host: str = "nuc") -> bytes:
    return certificates.make_request(certificates.make_key(), host)


def invited(authority: Authority, uses: int = 1, ttl_s: float = 600) -> JoinToken:
    return JoinToken.parse(authority.invite(ttl_s, uses, [NOWHERE]))


def admit(authority: Authority, token: JoinToken, host: str = "nuc", csr: bytes | None = None) -> Admission:
    return authority.admit(token.invite, token.secret, csr or request(host), host)


def serial_of(admission: Admission) -> int:
    return certificates.read_host(admission.certificate_pem).serial_no


def test_a_host_with_a_token_is_admitted_and_known(authority: Authority, clock: Clock) -> None:
    admission = admit(authority, invited(authority))

    shown = certificates.read_host(admission.certificate_pem)
    assert (shown.host, shown.names, shown.until_at) == ("nuc", ("nuc",), clock.now + timedelta(hours=24))
    assert admission.ca_pem == (authority.directory / "ca.pem").read_bytes()
    assert [host.name for host in authority.hosts()] == ["nuc"]
    assert not authority.is_removed("nuc", shown.serial_no)


def test_only_the_masters_own_certificate_has_the_masters_name(authority: Authority) -> None:
    master = authority.admit_master(request("gaming-pc"), "gaming-pc")

    assert certificates.read_host(master.certificate_pem).names == ("gaming-pc", "master.protheon.internal")
    renewed = authority.renew("gaming-pc", request("gaming-pc"), serial_of(master))
    assert certificates.read_host(renewed).names == ("gaming-pc", "master.protheon.internal")
    admit(authority, invited(authority))
    assert certificates.read_host(authority.renew("nuc", request())).names == ("nuc",)


def test_a_token_expires_at_its_time_and_not_before(authority: Authority, clock: Clock) -> None:
    early, late = invited(authority, ttl_s=60), invited(authority, ttl_s=60)
    clock.now += timedelta(seconds=59)
    admit(authority, early)
    clock.now += timedelta(seconds=1)

    with pytest.raises(NotAllowed, match="expired at 2026-03-01 12:01 UTC"):
        admit(authority, late, "other")


def test_a_token_that_is_used_up_admits_nobody_more(authority: Authority) -> None:
    token = invited(authority, uses=2)
    admit(authority, token, "a")
    admit(authority, token, "b")

    with pytest.raises(NotAllowed, match="used up"):
        admit(authority, token, "c")
    assert [host.name for host in authority.hosts()] == ["a", "b"]


def test_of_many_hosts_at_once_a_token_for_one_admits_one(authority: Authority, tmp_path: Path) -> None:
    token = invited(authority)
    others = [Authority.open(tmp_path, authority._clock) for _ in range(8)]  # as many processes would

    def one(n: int) -> bool:
        try:
            admit(others[n], token, f"host-{n}")
        except NotAllowed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        admitted = list(pool.map(one, range(8)))
    assert sum(admitted) == 1
    assert len(authority.hosts()) == 1


def test_a_host_whose_answer_was_lost_is_answered_again_for_the_same_key_alone(authority: Authority) -> None:
    token, csr = invited(authority), request()
    first = admit(authority, token, csr=csr)
    again = admit(authority, token, csr=csr)

    assert serial_of(first) != serial_of(again)
    assert not authority.is_removed("nuc", serial_of(first))
    with pytest.raises(NotAllowed, match="used up"):
        admit(authority, token)  # another key under the same name
    with pytest.raises(NotAllowed, match="used up"):
        admit(authority, token, "other", csr)


@pytest.mark.parametrize("secret", [b"", b"\0" * 16, b"x" * 1000])
def test_a_wrong_secret_and_an_unknown_invite_are_told_the_same(authority: Authority, secret: bytes) -> None:
    token = invited(authority)
    told = set()
    for invite in (token.invite, b"\0" * 8, b""):
        with pytest.raises(NotAllowed) as caught:
            authority.admit(invite, secret, request(), "nuc")
        told.add(str(caught.value))

    assert len(told) == 1
    assert authority.hosts() == []


def test_wrong_secrets_make_an_invite_void(authority: Authority) -> None:
    token, spared = invited(authority), invited(authority)
    for _ in range(MAX_WRONG):
        with pytest.raises(NotAllowed, match="not valid here"):
            authority.admit(token.invite, b"\1" * 16, request(), "nuc")

    with pytest.raises(NotAllowed, match="void: 5 times"):
        admit(authority, token)
    admit(authority, spared)


def test_a_name_that_is_taken_is_refused_and_costs_no_use(authority: Authority) -> None:
    authority.admit_master(request("gaming-pc"), "gaming-pc")
    admit(authority, invited(authority))
    token = invited(authority)

    with pytest.raises(NotAllowed, match="a host nuc is in this cluster already"):
        admit(authority, token)
    with pytest.raises(NotAllowed, match="a host gaming-pc is in this cluster already"):
        admit(authority, token, "gaming-pc")
    admit(authority, token, "other")


def test_the_masters_name_stays_its_own_when_its_certificate_has_ended(authority: Authority, clock: Clock) -> None:
    authority.admit_master(request("gaming-pc"), "gaming-pc")
    clock.now += timedelta(days=9)

    with pytest.raises(NotAllowed, match="already"):
        admit(authority, invited(authority), "gaming-pc")


def test_a_name_is_held_for_as_long_as_its_host_may_come_back_and_its_host_is_remembered_longer(
    authority: Authority, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = admit(authority, invited(authority))
    clock.now += timedelta(hours=24) + RETURN_FOR - timedelta(seconds=1)
    with pytest.raises(NotAllowed, match="`protheon worker` without --join is enough on that one"):
        admit(authority, invited(authority))
    clock.now += timedelta(seconds=1)

    admit(authority, invited(authority), "other")
    assert [host.name for host in authority.hosts()] == ["nuc", "other"]
    assert not authority.is_removed("nuc", serial_of(admit(authority, invited(authority))))
    assert authority.is_removed("nuc", serial_of(old))

    authority.admit_master(request("gaming-pc"), "gaming-pc")
    right = clock.now
    clock.now += timedelta(hours=24) + REMEMBERED_FOR
    for name in ("a", "b"):
        admit(authority, invited(authority), name)  # the clock may be wrong
    clock.now = right
    authority.renew("nuc", request("nuc"))

    monkeypatch.setattr("protheon_dask.run.trust.authority.REMEMBERED_HOSTS", 2)
    clock.now += timedelta(hours=24) + REMEMBERED_FOR
    admit(authority, invited(authority), "new")
    assert [host.name for host in authority.hosts()] == ["a", "b", "gaming-pc", "new"]


def test_a_removed_host_is_refused_and_not_renewed(authority: Authority, tmp_path: Path) -> None:
    serial_no = serial_of(admit(authority, invited(authority)))
    elsewhere = Authority.open(tmp_path, authority._clock)  # the broker's; `cluster remove` is another process
    assert not elsewhere.is_removed("nuc", serial_no)

    authority.remove("nuc")

    assert elsewhere.is_removed("nuc")
    assert elsewhere.is_removed("nuc", serial_no)
    with pytest.raises(NotAllowed, match="was removed"):
        elsewhere.renew("nuc", request(), serial_no)
    assert authority.remove("nuc") == 0  # again


def test_removing_a_host_withdraws_every_open_invite(authority: Authority) -> None:
    token = invited(authority, uses=5)
    admit(authority, token)
    unused = invited(authority)

    assert authority.remove("nuc") == 2
    for stolen in (token, unused):
        with pytest.raises(NotAllowed, match="withdrawn"):
            admit(authority, stolen, "another-name")


def test_invites_are_withdrawn_without_a_host_to_remove(authority: Authority) -> None:
    token, _used = invited(authority), admit(authority, invited(authority))

    assert authority.withdraw() == 1
    with pytest.raises(NotAllowed, match="withdrawn"):
        admit(authority, token, "another-name")
    assert authority.withdraw() == 0
    assert not authority.is_removed("nuc")


def test_a_removed_host_that_joins_anew_is_trusted_but_not_by_its_old_certificate(authority: Authority) -> None:
    old = serial_of(admit(authority, invited(authority)))
    authority.remove("nuc")
    new = serial_of(admit(authority, invited(authority)))

    assert not authority.is_removed("nuc", new)
    assert authority.is_removed("nuc", old)
    with pytest.raises(NotAllowed, match="was removed"):
        authority.renew("nuc", request(), old)
    assert join_no_of(certificates.read_host(authority.renew("nuc", request(), new)).serial_no) == 2


def test_a_host_that_this_authority_never_saw_is_not_trusted(authority: Authority) -> None:
    assert authority.is_removed("stranger")
    assert authority.is_removed("")
    with pytest.raises(NotFound, match="no host 'stranger'; there are: none"):
        authority.remove("stranger")


def test_the_master_cannot_be_removed_nor_be_two(authority: Authority) -> None:
    authority.admit_master(request("gaming-pc"), "gaming-pc")

    with pytest.raises(ConfigError, match="is the master"):
        authority.remove("gaming-pc")
    with pytest.raises(ConfigError, match="master is gaming-pc, not nuc"):
        authority.admit_master(request(), "nuc")


@pytest.mark.parametrize("host", ["../../etc/x", "a/b", "", "A", "master.protheon.internal", "-x", "x" * 64])
def test_a_name_with_tricks_is_refused_and_costs_no_use(authority: Authority, host: str) -> None:
    token = invited(authority)
    with pytest.raises(ConfigError, match="cannot be a host's name"):
        admit(authority, token, host, request())
    admit(authority, token)


def test_a_broken_request_costs_no_use(authority: Authority) -> None:
    token = invited(authority)
    with pytest.raises(ConfigError, match="certificate request"):
        admit(authority, token, csr=b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
    admit(authority, token)


@pytest.mark.parametrize(
    ("ttl_s", "uses", "addresses"),
    [
        (0, 1, [NOWHERE]),
        (-1, 1, [NOWHERE]),
        (float("nan"), 1, [NOWHERE]),
        (3e6, 1, [NOWHERE]),
        (60, 0, [NOWHERE]),
        (60, 1, []),
        (60, 1, ["x"]),
        (60, 1, [f"{'a' * 240}-{no}:50052" for no in range(20)]),  # nobody could read that token
    ],
)
def test_an_invite_out_of_its_range_is_refused(authority: Authority, ttl_s: float, uses: int, addresses: list[str]) -> None:
    with pytest.raises(ConfigError):
        authority.invite(ttl_s, uses, addresses)


def test_no_secret_is_stored_nor_in_the_files_of_invites(authority: Authority) -> None:
    token = invited(authority)
    stored = (authority.directory / INVITES).read_bytes()

    assert token.invite.hex().encode() in stored
    assert token.secret.hex().encode() not in stored
    assert token.secret not in stored


def test_a_second_authority_does_not_take_the_place_of_the_first(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is an authority already"):
        Authority.create(tmp_path)
    assert Authority.open(tmp_path).fingerprint == authority.fingerprint


def test_without_an_authority_the_person_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingSetting, match="protheon cluster init"):
        Authority.open(tmp_path)


def files_of(authority: Authority) -> Iterator[Path]:
    yield authority.directory
    yield from authority.directory.iterdir()


def test_everything_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = tmp_path / "home"
        tls.identity(tls.authority(home), "nuc", home)
    finally:
        os.umask(before)

    assert stat.S_IMODE(home.stat().st_mode) == 0o711, "others may pass, and see nothing"
    made = [*files_of(Authority.open(home)), *(home / "tls").iterdir()]
    assert {path.name for path in made} > {CA_KEY, HOSTS, INVITES, "host.key"}
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made} == {path.name: 0 for path in made}


@pytest.mark.parametrize(("name", "mode", "wanted"), [("", 0o750, "chmod 700"), (CA_KEY, 0o640, "chmod 600"), (HOSTS, 0o606, "chmod 600")])
def test_an_authority_that_others_can_reach_is_not_opened(authority: Authority, tmp_path: Path, name: str, mode: int, wanted: str) -> None:
    (authority.directory / name).chmod(mode)

    with pytest.raises(ConfigError, match=wanted):
        Authority.open(tmp_path)


@pytest.mark.parametrize("name", [HOSTS, INVITES, CA_KEY])
def test_a_file_that_is_damaged_or_gone_lets_nobody_in(authority: Authority, tmp_path: Path, name: str) -> None:
    token = invited(authority)
    (authority.directory / name).write_bytes(b"{")
    with pytest.raises(ConfigError, match="damaged"):
        admit(authority, token)

    (authority.directory / name).unlink()
    with pytest.raises(ConfigError, match="missing"):
        Authority.open(tmp_path)


def test_a_list_of_hosts_that_cannot_be_read_trusts_nobody(authority: Authority) -> None:
    admit(authority, invited(authority))
    assert not authority.is_removed("nuc")
    (authority.directory / HOSTS).write_bytes(b'{"hosts": [{"name": "nuc"}]}')

    with pytest.raises(ConfigError, match="damaged"):
        authority.is_removed("nuc")


KILLED_AT_EACH_WRITE = """
import os, signal, sys
from pathlib import Path
from tests.fixtures import tls
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.join_token import JoinToken

def join(home, token, csr):
    return Authority.open(home).admit(token.invite, token.secret, csr, "nuc")

def killed_at(n, home, token, csr):
    left, fsync = n, os.fsync
    def fsync_or_die(fd):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(fd)
    os.fsync = fsync_or_die
    join(home, token, csr)
    os._exit(0)

for n in range(1, 9):
    home = Path(sys.argv[1]) / str(n)
    token = JoinToken.parse(tls.authority(home).invite(600, 1, [tls.NOWHERE]))
    csr = tls.certificates.make_request(tls.certificates.make_key(), "nuc")
    if not (pid := os.fork()):
        killed_at(n, home, token, csr)
    ending = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    before = [host.name for host in Authority.open(home).hosts()]
    join(home, token, csr)
    try:
        join(home, token, tls.certificates.make_request(tls.certificates.make_key(), "other"))
        other = "admitted"
    except Exception as error:
        other = str(error).split(":")[0]
    print(ending, before, "admitted", other, sep="|")
"""


def test_a_kill_at_each_write_of_an_admission_gives_no_use_twice_and_leaves_files_whole(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_WRITE, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[3],
    )
    told = [line.split("|") for line in done.stdout.splitlines()]
    killed = [line for line in told if int(line[0]) == -signal.SIGKILL]

    assert len(killed) == 4  # a file and its directory, twice
    assert [line[1] for line in told] == ["[]", "[]", "[]"] + ["['nuc']"] * 5
    assert [line[2:] for line in told] == [["admitted", "this token is used up"]] * 8


def test_a_kill_while_the_authority_is_made_leaves_none_and_is_made_good(tmp_path: Path) -> None:
    (tmp_path / "authority.new").mkdir()
    (tmp_path / "authority.new" / CA_KEY).write_bytes(b"half a ke")

    with pytest.raises(MissingSetting):
        Authority.open(tmp_path)
    Authority.create(tmp_path)
    assert not (tmp_path / "authority.new").exists()
