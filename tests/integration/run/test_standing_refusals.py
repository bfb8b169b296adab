"""What a standing master refuses before it starts anything: each says why, and which option to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protheon_dask.config import Settings
from protheon_dask.errors import ProtheonError
from protheon_dask.run import api, parts
from protheon_dask.run.addresses import is_near
from protheon_dask.run.machine import Machine
from protheon_dask.run.standing import MasterWish, StandingMaster
from protheon_dask.run.trust import founding

ELSEWHERE = "postgresql://ann@nuc:5432/games"
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """The message of a master that is not even begun. into: None is the embedded database."""
    for variable in ("DATABASE_URL", "PROTHEON_DATABASE_URL", "PGHOST", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(variable, raising=False)

    def refused(into: str | None = ELSEWHERE, *, bind: str = "0.0.0.0", is_insecure: bool = False, **settings: str) -> str:  # nothing binds
        effective = api.read_settings({"home": str(tmp_path / "home"), **settings})
        with pytest.raises(ProtheonError) as caught:
            StandingMaster(
                effective,
                api.resolve_database(effective, into, embedded=into is None),
                MasterWish(bind=bind, is_insecure=is_insecure),
                on_event=lambda _: None,
            )
        assert caught.value.acts.name == "OPERATOR"
        return str(caught.value)

    return refused


def test_other_hosts_are_not_let_in_without_certificates_unless_that_is_asked_for(refused: Refused) -> None:
    told = refused()
    assert "`protheon cluster init`" in told
    assert "--insecure: then anyone who reaches the ports runs code here" in told


def test_insecure_is_refused_where_there_is_a_certificate(refused: Refused, tmp_path: Path) -> None:
    founding.init(Settings(home=str(tmp_path / "home")), "nuc", [])
    assert "leave --insecure out" in refused(is_insecure=True)


def test_a_host_of_another_masters_cluster_is_told_to_take_another_home(refused: Refused, tmp_path: Path) -> None:
    other = founding.init(Settings(home=str(tmp_path / "other")), "nuc", [])
    assert "another master's cluster" in refused(tls_dir=str(other.tls.directory))


@pytest.mark.parametrize(
    ("into", "where"),
    [
        ("postgresql://ann:secret@127.0.0.1:5432/games", "127.0.0.1"),
        ("postgresql://ann:secret@localhost/games", "localhost"),
        ("postgresql://ann:secret@[::1]/games", "::1"),
        ("postgresql://ann:secret@nuc,localhost/games", "localhost"),
        ("postgresql:///games?host=/run/postgresql", "a socket"),
        ("dbname=games", "localhost"),
    ],
)
def test_a_database_that_only_this_machine_reaches_is_refused_with_the_option_to_give(refused: Refused, into: str, where: str) -> None:
    told = refused(into, is_insecure=True)
    assert f"--into names a PostgreSQL by {where}, which only this machine reaches: give --into postgresql://user@HOST" in told
    assert "secret" not in told


def test_the_embedded_database_is_refused_beyond_loopback(refused: Refused) -> None:
    assert "the embedded PostgreSQL" in (told := refused(None, is_insecure=True))
    assert "give --into postgresql://user@HOST:5432/database" in told


@pytest.mark.parametrize(
    ("host", "near"),
    [("", True), ("/tmp", True), ("@pg", True), ("localhost", True), ("127.0.1.1", True), ("nuc", False), ("10.0.0.5", False)],
)
def test_what_only_this_machine_reaches_is_known_by_its_name(host: str, near: bool) -> None:
    assert is_near(host) is near


@pytest.mark.parametrize(
    ("wish", "n_workers"),
    [(MasterWish(bind="0.0.0.0"), 0), (MasterWish(bind="10.0.0.5", workers=3), 3), (MasterWish(workers=0), 0)],  # nothing binds
)
def test_a_master_beyond_loopback_has_workers_only_where_they_are_asked_for(
    wish: MasterWish, n_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wish.n_workers == n_workers
    monkeypatch.setattr(parts, "this_machine", lambda: Machine(2.5, 64 << 30, is_limited=True))  # a container on a large machine
    assert MasterWish().n_workers == 2
