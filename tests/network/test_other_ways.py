"""Other ways to many hosts than one command each: without certificates, by Dask's own commands, and on a Dask of somebody else."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from distributed import Security

from protheon_dask.pipelines.sample import sample_lines
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.fleet import PASSWORD, Fleet, fleet_of
from tests.fixtures.network import Host, needs_network
from tests.fixtures.report_oracle import answer, differences

pytestmark = [needs_network, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
N_LINES, SEED = 200, 11
LOAD = """
import sys
import protheon_dask as protheon

with protheon.connect(sys.argv[1]) as cluster:
    final = cluster.load(sys.argv[2], pipeline="pgcr", chunk_lines=50).wait(timeout=200)
    print(final.state, final.loaded)
"""
GUEST = """
import sys
from pathlib import Path

import protheon_dask as protheon
from distributed import Client, Security

scheduler, url, here, source, ca, key = sys.argv[1:]

def by_value(line: bytes) -> tuple[int]:
    return (len(line),)

if __name__ == "__main__":
    ca, key = (Path(name).read_text() for name in (ca, key))  # as cloud services give them
    proof = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=ca, tls_client_key=key)
    table = protheon.Table(name="public.guest", columns=(protheon.Column("n", "bigint"),))
    pipeline = protheon.pipeline(version="1", tables=[table])(by_value)
    with Client(scheduler, security=proof) as client:
        with protheon.connect(scheduler=client, into=url, bind=here, insecure=True) as cluster:
            final = cluster.load(source, pipeline, chunk_lines=50).wait(timeout=200)
            print(final.state, final.loaded, cluster.client.submit(sum, [1, 2]).result(timeout=60))
"""


def loaded(fleet: Fleet, host: Host, script: str, *arguments: object) -> str:
    """What a script says that a person starts there."""
    path = fleet.home(host) / "script.py"
    path.write_text(script)
    return fleet.type(host, shlex.join([sys.executable, str(path), *map(str, arguments)]), 300).strip()


def test_without_certificates_both_sides_are_warned_and_no_secret_is_told(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "nuc", PROTHEON_EXIT_GRACE_S="3") as fleet:
        master, nuc = fleet.master, fleet.network.hosts["nuc"]
        source = fleet.sample("sample", N_LINES, SEED)
        fleet.start_master(f"protheon master --bind {master.address} --insecure")
        assert "--insecure: anyone who reaches the ports of this master runs code here, as this user" in fleet.said(master)
        [line] = re.findall(r"^another host +(.*)$", fleet.said(master), re.MULTILINE)
        assert line.startswith(f"PROTHEON_KEY_FILE=FILE protheon worker {master.address}:50051 --insecure --into ")
        assert PASSWORD not in fleet.said(master)

        bare = nuc.run(shlex.split(f"protheon worker {master.address} --insecure"), fleet.env(nuc))
        assert bare.returncode == 2, bare.stderr
        assert "anyone who reaches a port of Dask here runs code as you" in bare.stderr
        assert "PROTHEON_DATABASE_URL" in bare.stderr, bare.stderr

        key = fleet.home(nuc) / "copied.key"
        shutil.copy(fleet.home(master) / "cluster.key", key)
        fleet.start(nuc, "env " + line.replace("FILE ", f"{key} ", 1).replace("***", PASSWORD) + " --workers 1")
        fleet.wait_said(nuc, "joined the master")
        assert "with 1 worker, in plaintext" in fleet.said(nuc)
        run = fleet.submit(source, 50, 0.01)  # a pipeline that travels by value: the worker knows the key
        assert run.finish()["loaded"] == N_LINES
        assert differences(fleet.admin_url, answer(sample_lines(N_LINES, SEED))) == []
        written = [path for path in fleet.home(nuc).rglob("*") if path.is_file() and path != key]
        secrets = (PASSWORD.encode(), key.read_bytes())
        assert [path for path in written if any(secret in path.read_bytes() for secret in secrets)] == []


def blocks(fleet: Fleet, host: Host) -> list[tuple[str, list[str]]]:
    """What docs/hosts.md types by hand, for this host: variables, then commands."""
    text = (ROOT / "docs" / "hosts.md").read_text()
    [section] = re.findall(r"^## Dask's own commands$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    for old, new in (
        ("postgresql://me:secret@192.168.1.10/games", fleet.url),
        ("192.168.1.10", fleet.master.address),
        ("~/.local/share/protheon", str(fleet.home(host))),
        ("--nworkers 4", "--nworkers 1"),
        ("\\\n", ""),
    ):
        assert old in section
        section = section.replace(old, new)
    found = [block.strip().splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)]
    return [(variables, commands) for variables, *commands in found]


def test_scheduler_broker_and_worker_by_hand_load_over_mutual_tls(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "nuc", DASK_CONFIG=str(ROOT / "scheduler")) as fleet:
        master, nuc = fleet.master, fleet.network.hosts["nuc"]
        fleet.names_database = False
        source = fleet.sample("sample", N_LINES, SEED)
        fleet.type(master, f"protheon cluster init --address {master.address}")
        (variables, (migrate, scheduler, broker)), _ = blocks(fleet, master)
        fleet.type(master, shlex.join(["sh", "-c", f"{variables}; {migrate}"]))
        for command, words in ((scheduler, "Scheduler at:"), (broker, "broker_uuid")):
            fleet.start(master, shlex.join(["sh", "-c", f"{variables}; exec {command}"]))
            fleet.wait_said(master, words)
        fleet.start(nuc, f"{fleet.invite()} --workers 1")
        fleet.wait_said(nuc, "joined the master")
        assert fleet.stop(nuc) == 0

        _, (variables, (worker,)) = blocks(fleet, nuc)
        fleet.start(nuc, shlex.join(["sh", "-c", f"{variables}; exec {worker}"]))
        fleet.wait_workers(nuc)
        assert loaded(fleet, master, LOAD, master.address, source) == f"succeeded {N_LINES}"
        assert differences(fleet.admin_url, answer(sample_lines(N_LINES, SEED))) == []
        assert "Traceback" not in fleet.said(nuc), fleet.said(nuc)

        fleet.type(master, "protheon cluster remove nuc")
        wait_until(lambda: fleet.workers() == {}, 60)


def test_a_dask_of_somebody_else_over_tls_works_for_a_laptop_that_it_reaches(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "nuc", "laptop") as fleet:
        master, nuc, laptop = fleet.master, fleet.network.hosts["nuc"], fleet.network.hosts["laptop"]
        source, theirs = fleet.sample("sample", N_LINES, SEED), Security.temporary()  # type: ignore[no-untyped-call]  # distributed has no types
        ca, key = tmp_path / "their-ca.pem", tmp_path / "their.key"
        ca.write_text(theirs.tls_ca_file)
        key.write_text(theirs.tls_client_key)
        proof = f"--tls-ca-file {ca} --tls-cert {ca} --tls-key {key} --no-dashboard --dashboard-address 127.0.0.1:0"
        fleet.start(master, f"dask scheduler --protocol tls --host 0.0.0.0 --port 8786 {proof}")
        address = f"tls://{master.address}:8786"
        fleet.start(nuc, f"env PROTHEON_DATABASE_URL={fleet.url} dask worker {address} --nworkers 1 --nthreads 2 {proof}")
        fleet.wait_said(nuc, "Registered to:")
        told = loaded(fleet, laptop, GUEST, address, fleet.url, laptop.address, source, ca, key)
        assert told == f"succeeded {N_LINES} 3"
        assert ask(fleet.admin_url, "SELECT count(*) FROM public.guest") == [(N_LINES,)]
        assert ask(fleet.admin_url, "SELECT DISTINCT host FROM protheon.attempt") == [("nuc",)]
