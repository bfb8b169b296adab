"""``protheon cluster`` as a person types it, and what a running master makes of it."""

from __future__ import annotations

import io
import json
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.cli.main import main
from protheon_dask.config import Settings, environment
from protheon_dask.errors import ConfigError, NotAllowed
from protheon_dask.ledger.migrate import migrate
from protheon_dask.run.trust import certificates, founding
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.join_token import JoinToken
from protheon_dask.run.trust.joining import join
from protheon_dask.run.trust.membership import renew_if_due
from tests.fixtures import tls
from tests.fixtures.standing import PROTHEON, home_environment

Run = Callable[..., subprocess.CompletedProcess[str]]
LINE = "protheon worker --join "


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def cluster(home: Path) -> Run:
    """Types one command of this home, and returns its ending."""

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        env = home_environment(home) | {"PROTHEON_JOIN_PORT": "50052"}
        command = [str(PROTHEON), "cluster", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
        return done

    return run


def test_a_cluster_is_founded_once_and_invites_by_one_line_to_paste(
    cluster: Run, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = json.loads(cluster("init", "--name", "nuc", "--address", "192.168.1.10", "--address", "[fd00::1]:7", "--json").stdout)
    assert (first["host"], first["is_new"]) == ("nuc", True)
    assert first["addresses"] == ["192.168.1.10:50052", "[fd00::1]:7"]
    modes = [stat.S_IMODE(path.stat().st_mode) for name in ("authority", "tls") for path in (home / name, *(home / name).iterdir())]
    assert [mode for mode in modes if mode & 0o077] == []

    invited = cluster("invite", "--ttl", "30m", "--uses", "2")
    [line] = invited.stdout.splitlines()
    assert line.startswith(LINE)
    token = JoinToken.parse(line.removeprefix(LINE))
    assert (token.addresses, token.fingerprint.hex()) == (("192.168.1.10:50052", "[fd00::1]:7"), first["fingerprint"])
    assert "for 2 hosts" in invited.stderr

    monkeypatch.setenv("PROTHEON_HOME", str(home))
    assert main(["cluster", "init"]) == 0
    again = capsys.readouterr()
    assert "the cluster was there already" in again.err
    assert first["fingerprint"] in again.out
    join_by_hand(home, token)
    assert main(["cluster", "invite", "--withdraw"]) == 0
    assert capsys.readouterr().out == "1 open invite withdrawn\n"
    monkeypatch.setenv("PROTHEON_JOIN_PORT", tls.NOWHERE.rpartition(":")[2])
    assert main(["cluster", "invite", "--address", tls.NOWHERE]) == 0
    assert "nobody answers there" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as master:
        assert founding.is_reached(Settings(join_port=1), [tls.NOWHERE, f"127.0.0.1:{master.getsockname()[1]}"])
    assert main(["cluster", "remove", "pc"]) == 0
    assert capsys.readouterr().out == "host pc is removed; 1 open invite withdrawn\n"
    assert main(["cluster", "hosts", "--json"]) == 0
    told = capsys.readouterr()
    assert {row["host"]: (row["state"], row["n_workers"]) for row in json.loads(told.out)} == {
        "nuc": ("master", None),
        "pc": ("removed", None),
    }
    assert "which hosts have workers is not known: no master answers" in told.err


@pytest.mark.parametrize(("typed", "told"), [("", "no token on standard input"), (f"{LINE}nonsense\n", "is no token to join by")])
def test_a_token_may_come_by_standard_input_and_is_told_nowhere(
    typed: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["worker", "--join", "-"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "nonsense" not in said


def join_by_hand(home: Path, token: JoinToken) -> None:
    """As the broker admits a host."""
    csr = certificates.make_request(certificates.make_key(), "pc")
    Authority.open(home).admit(token.invite, token.secret, csr, "pc")


def test_a_name_that_can_be_none_leaves_nothing_behind(home: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a host's name"):
        founding.init(Settings(home=str(home)), "../x", [])
    with pytest.raises(ConfigError, match="is no address"):
        founding.init(Settings(home=str(home)), "nuc", ["a b"])
    assert not (home / "authority").exists()


def test_a_founding_that_was_cut_off_is_completed(home: Path) -> None:
    Authority.create(home)  # and then a kill
    made = founding.init(Settings(home=str(home)), "nuc", [])
    assert (made.host, made.is_new) == ("nuc", True)
    assert founding.init(Settings(home=str(home)), None, []).host == "nuc"


def test_a_host_of_a_cluster_does_not_found_another_beside_it(home: Path, tmp_path: Path) -> None:
    tls.identity(tls.authority(tmp_path), "pc", home)

    with pytest.raises(ConfigError, match="is in a cluster already"):
        founding.init(Settings(home=str(home)), "pc", [])
    assert not (home / "authority").exists()


@pytest.mark.parametrize("typed", ["invite", "invite --withdraw", "hosts", "remove nuc"])
def test_what_is_the_masters_to_do_is_told_on_a_host_that_joined_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    monkeypatch.setenv("PROTHEON_HOME", str(home))
    tls.joined(tls.authority(tmp_path), "pc", home, "192.168.1.10:50051")
    assert main(["cluster", *typed.split()]) == 2
    assert "this is a host of 192.168.1.10:50051: type it there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("invite", "`protheon cluster init` makes one"),
        ("hosts", "`protheon cluster init` makes one"),
        ("init --name ../x", "cannot be a host's name"),
        ("init --name other", "leave --name out"),
        ("init --address nuc:99999", "is no address"),
        ("remove stranger", "there are: nuc"),
        ("remove nuc", "is the master"),
        ("invite --ttl soon", "is no span of time"),
        ("invite --ttl 31d", "at most 30 days"),
        ("invite --uses 0", "for 1 to 1000 hosts"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, told: str
) -> None:
    monkeypatch.setenv("PROTHEON_HOME", str(home))
    if "init" not in told:
        founding.init(Settings(home=str(home)), "nuc", [])

    assert main(["cluster", *typed.split()]) == 2
    assert told in capsys.readouterr().err


@contextmanager
def broker_process(home: Path, url: str) -> Iterator[tuple[str, str]]:
    """A master's broker as `protheon master` runs it beyond loopback; yields its addresses of gRPC and of joining."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        join_port = free.getsockname()[1]
    settings = Settings(home=str(home), database_url=url, tls_dir=str(home / "tls"))
    command = [sys.executable, "-m", "protheon_dask.run.broker", "--scheduler", "tls://127.0.0.1:1", "--port", "0"]
    command += ["--http-port", "0", "--join-port", str(join_port)]
    env = {**home_environment(home), **environment(settings)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            listens = json.loads(process.stdout.readline())
            yield f"127.0.0.1:{listens['port']}", f"127.0.0.1:{join_port}"
        finally:
            process.terminate()


def test_a_running_broker_lets_a_host_in_and_forgets_it_at_once(home: Path, database: str, tmp_path: Path) -> None:
    """Joined, renewed, removed, and in again by a new invite, but not by the old certificate."""
    settings = Settings(home=str(home))
    founding.init(settings, "nuc", [])
    migrate(database)
    with broker_process(home, database) as (grpc_address, join_address):

        def invite() -> str:
            return founding.invite(settings, 600, 1, [join_address]).token

        token = invite()
        joined = join(token, tmp_path / "pc", "pc")
        assert joined.master == grpc_address
        with BrokerClient(joined.master, joined.tls) as broker:
            assert [(host.name, host.is_removed) for host in broker.hosts().hosts] == [("nuc", False), ("pc", False)]
            before = joined.tls.stamp()
            assert renew_if_due(joined.tls, broker, datetime.now(UTC) + timedelta(hours=9))
            assert joined.tls.stamp() != before
            assert [host.name for host in broker.hosts().hosts] == ["nuc", "pc"]  # by the new one

            founding.remove(settings, "pc")
            with pytest.raises(NotAllowed, match="host pc was removed"):
                broker.hosts()
            with pytest.raises(NotAllowed, match="host pc was removed"):
                renew_if_due(joined.tls, broker, datetime.now(UTC) + timedelta(hours=9))
        with pytest.raises(NotAllowed, match="withdrawn"):
            join(token, tmp_path / "elsewhere", "other")

        old = TlsFiles(tmp_path / "old")
        joined.tls.directory.rename(old.directory)
        again = join(invite(), tmp_path / "pc", "pc")
        with BrokerClient(again.master, again.tls) as broker, BrokerClient(again.master, old) as thief:
            assert broker.hosts()
            with pytest.raises(NotAllowed, match="host pc was removed"):
                thief.hosts()
