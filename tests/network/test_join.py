"""README's "Several machines", as it stands there: two hosts join by pasting a line each, and load over mutual TLS."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from protheon_dask.pipelines.sample import sample_lines
from tests.fixtures.cluster import ask, wait_until
from tests.fixtures.fleet import Fleet, fleet_of
from tests.fixtures.network import needs_network
from tests.fixtures.report_oracle import answer, differences

pytestmark = [needs_network, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
WALKS = ((ROOT / "README.md", "Several machines"), (ROOT / "docs" / "deploy.md", "A home cluster"))
MASTER, DATABASE_URL = "192.168.1.10", "postgresql://me:secret@192.168.1.10/games"
"""The page's own: here the master has another address, and the database another password."""
N_LINES, SEED = 600, 7


def typed(page: Path, section: str) -> list[str]:
    """Our commands in this section of a page, in their order, without comments."""
    [found] = re.findall(rf"^## {section}$(.*?)^## ", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```$", found, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    return [line.partition("  ")[0] for line in lines if line.startswith(("protheon ", "export "))]


def commands(fleet: Fleet, archive: Path) -> list[str]:
    """README's commands for this network."""
    said = [line.replace(DATABASE_URL, fleet.url).replace(MASTER, fleet.master.address) for line in typed(*WALKS[0])]
    return [line.replace("/archive/*.jsonl.zst", str(archive)) for line in said]


def test_the_readme_and_the_page_on_deploying_type_the_same() -> None:
    assert typed(*WALKS[0]) == typed(*WALKS[1])


def test_two_hosts_join_by_pasting_a_line_each_and_load_the_sample_over_mutual_tls(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "nuc", "gaming-pc", PROTHEON_EXIT_GRACE_S="3") as fleet:
        export, init, master, invite, load, watch, remove = commands(fleet, tmp_path / "sample.jsonl.zst")
        fleet.sample("sample", N_LINES, SEED)
        assert export == f"export PROTHEON_DATABASE_URL={fleet.url}"
        fleet.type(fleet.master, init)
        fleet.start_master(master)
        fleet.names_database = False  # nobody exported it in the other terminal
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


STRANGER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if sys.argv[3]:
    context.set_alpn_protocols([sys.argv[3]])
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as plain:
    try:
        with context.wrap_socket(plain) as tls:  # over TLS 1.3 this ends before the server has looked for a certificate
            tls.settimeout(10)
            tls.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(9))
            print("answered" if tls.recv(4096) else "closed")
    except (ssl.SSLError, ConnectionError) as exc:
        print(getattr(exc, "reason", None) or type(exc).__name__)
"""
REFUSED = {"closed", "TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLEOFError", "ConnectionResetError", "BrokenPipeError"}


def check_doors(fleet: Fleet, name: str) -> None:
    """What listens on the master for this host speaks TLS, and lets nobody in who has no certificate."""
    for port, protocol in ((50051, "h2"), (8786, "")):
        probe = [sys.executable, "-S", "-c", STRANGER, fleet.master.address, port, protocol]
        stranger = fleet.network.hosts[name].run(probe, timeout_s=30)
        assert stranger.stdout.strip() in REFUSED, (port, stranger.stdout, stranger.stderr)
