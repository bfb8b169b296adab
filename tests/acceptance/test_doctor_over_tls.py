"""``protheon doctor`` from another host of a cluster with certificates: all that it is told comes by mutual TLS."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protheon_dask.config import Settings
from protheon_dask.run.trust import founding
from protheon_dask.run.trust.authority import Authority
from tests.fixtures.cluster import wait_until
from tests.fixtures.hosting import worker_host
from tests.fixtures.postgres import fresh_database
from tests.fixtures.standing import PROTHEON, Master, started
from tests.fixtures.tls import identity

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Joined:
    """A standing master, and the home of one of the two hosts that work for it; the other cannot reach where hosts join."""

    master: Master
    home: Path

    def doctor(self, home: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
        return self.asked(home, "doctor", *arguments)

    def asked(self, home: Path, *command_line: str) -> tuple[int, dict[str, Any]]:
        """Exit code, and what --json says, as typed on the host with this home; it knows no database."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROTHEON_", "PG", "DATABASE_URL"))}
        command = [str(PROTHEON), *command_line, "--json"]
        done = subprocess.run(command, env={**kept, "PROTHEON_HOME": str(home)}, capture_output=True, check=False, timeout=100)
        assert done.stdout, done.stderr.decode()
        return done.returncode, json.loads(done.stdout)

    def has_workers(self) -> bool:
        """each host's worker is at work"""
        _, told = self.doctor(self.home, self.master.address)
        return sum(host["n_workers"] for host in told["hosts"]) == 3


@pytest.fixture(scope="module")
def joined(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    directory = tmp_path_factory.mktemp("cluster")
    founding.init(Settings(home=str(directory / "nuc")), "nuc", [])
    with fresh_database(postgres_url) as url, started(directory / "nuc", url, "--workers", "1") as master:
        for host, joining in (("macbook", master.address), ("handheld", "127.0.0.1:9")):
            tls = identity(Authority.open(directory / "nuc"), host, directory / host)
            note = {"master": master.address, "host": host, "invite": "i", "joining": [joining]}
            tls.note.write_text(json.dumps(note))
        with worker_host(directory / "macbook", "--workers", "1"), worker_host(directory / "handheld", "--workers", "1"):
            made = Joined(master, directory / "macbook")
            wait_until(made.has_workers, 90)
            yield made


def test_a_host_of_the_cluster_finds_its_master_and_sees_all_hosts_and_their_database_without_knowing_it(joined: Joined) -> None:
    code, told = joined.doctor(joined.home, "--bench")
    failures = [finding for finding in told["findings"] if finding["level"] == "fail"]
    assert (code, failures) == (0, [])
    assert [(host["host"], host["n_workers"]) for host in told["hosts"]] == [("handheld", 1), ("macbook", 1), ("nuc", 1)]
    assert told["here"]["host"] == "macbook", "by the name in its certificate, so that it is not listed twice"
    handheld, host, _ = told["hosts"]
    assert host["server"]["has_ledger"], "by the worker's way, which the master told it"
    assert host["benched"]["copy_lines_per_s"] > 0
    assert (host["peers"], handheld["peers"]) == ({"handheld": "", "nuc": ""}, {"macbook": "", "nuc": ""})
    assert host["joining"] == joined.master.address
    [unreached] = [finding for finding in told["findings"] if finding["what"] == "reach" and finding["level"] == "warn"]
    assert unreached["which"] == "handheld"
    assert "127.0.0.1:9: Connection refused" in unreached["told"]
    certificates = [finding["which"] for finding in told["findings"] if finding["what"] == "certificate"]
    assert "macbook" in certificates
    assert "postgresql://" not in json.dumps(told)


def test_one_without_a_certificate_is_told_that_the_master_does_not_answer_it(joined: Joined, tmp_path: Path) -> None:
    code, told = joined.doctor(tmp_path, joined.master.address)
    assert code == 1
    assert [finding["what"] for finding in told["findings"] if finding["level"] == "fail"] == ["master"]
    assert told["hosts"] == []


def test_on_the_master_its_own_master_is_found(joined: Joined) -> None:
    done = joined.master.run("doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, [host["host"] for host in told["hosts"]]) == (0, ["handheld", "macbook", "nuc"]), done.stderr
    assert told["here"]["host"] == "nuc"


def test_a_plan_for_it_measures_each_host(joined: Joined, tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text("{}\n" * 100)
    code, told = joined.asked(joined.home, "plan", str(path), "--master", joined.master.address, "--bench")
    assert code == 0
    speeds = told["rate"]["speeds"]
    assert [(host["host"], host["n_workers"], host["known_by"]) for host in speeds["hosts"]] == [
        (name, 1, "bench") for name in ("handheld", "macbook", "nuc")
    ]
    assert (speeds["guessed"], told["notes"]) == ([], [])
    assert (told["n_workers"], told["master"]) == (3, joined.master.address)
    assert told["ledger"].startswith(f"the ledger of the master at {joined.master.address}, database "), "which it told this host"
