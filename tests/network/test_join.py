"""The walk of docs/deploy.md, "A home cluster", as it stands there: two hosts join by pasting a line each, and load over mutual TLS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from protheon_dask.pipelines.sample import sample_lines
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.fleet import Fleet, fleet_of
from tests.fixtures.network import needs_network
from tests.fixtures.report_oracle import answer, differences

pytestmark = [needs_network, pytest.mark.timeout(300)]

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
MASTER, DATABASE_URL = "192.168.1.10", "postgresql://me:secret@192.168.1.10/games"
"""The page's own: here the master has another address, and the database another password."""
N_LINES, SEED = 600, 7


def commands(fleet: Fleet, archive: Path) -> list[str]:
    """The commands of the page's section for this network, in their order."""
    [section] = re.findall(r"^## A home cluster$(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    said = [line.replace(DATABASE_URL, fleet.url).replace(MASTER, fleet.master.address) for line in lines]
    return [line.replace("/archive/*.jsonl.zst", str(archive)) for line in said if line.startswith("protheon ")]


def test_two_hosts_join_by_pasting_a_line_each_and_load_the_sample_over_mutual_tls(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "nuc", "gaming-pc", PROTHEON_EXIT_GRACE_S="3") as fleet:
        init, master, invite, load, watch, remove = commands(fleet, tmp_path / "sample.jsonl.zst")
        fleet.sample("sample", N_LINES, SEED)
        fleet.type(fleet.master, init)
        fleet.start_master(master)
        hosts = [fleet.network.hosts[name] for name in ("nuc", "gaming-pc")]
        for host in hosts:
            pasted = fleet.invite(invite)
            assert pasted.startswith("protheon worker --join ")
            fleet.start(host, f"{pasted} --workers 1")
        fleet.wait_workers(*hosts)

        fleet.type(fleet.master, load.replace(" --detach", " --chunk-lines 50 --detach"))
        fleet.type(fleet.master, watch)
        assert differences(fleet.admin_url, answer(sample_lines(N_LINES, SEED))) == []
        worked = ask(fleet.admin_url, "SELECT DISTINCT host FROM protheon.attempt WHERE outcome = 'succeeded'")
        assert {host for (host,) in worked} == {"nuc", "gaming-pc"}
        for host in hosts:
            check_doors(fleet, host.name)

        fleet.type(fleet.master, remove)  # the gaming PC
        wait_until(lambda: set(fleet.workers()) == {"nuc"})


def check_doors(fleet: Fleet, name: str) -> None:
    """What listens on the master for this host speaks TLS, and lets nobody in who has no certificate."""
    for port in (50051, 8786):
        probe = ["openssl", "s_client", "-connect", f"{fleet.master.address}:{port}", "-brief"]
        stranger = subprocess.run(
            fleet.network.hosts[name].inside(probe), input="", capture_output=True, text=True, timeout=30, check=False
        )
        assert "Protocol version: TLSv1.3" in stranger.stderr, stranger.stderr
