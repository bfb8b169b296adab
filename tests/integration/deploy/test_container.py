"""What the containers run around `protheon`: with real sockets, files and processes, and no engine."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import stat
import subprocess
import sys
import threading
import tomllib
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from protheon_dask.errors import BrokerUnavailable
from protheon_dask.ledger.server_process import free_port
from protheon_dask.run.trust.authority import Authority
from protheon_dask.run.trust.join_token import JoinToken
from tests.fixtures import tls

SCRIPT = Path(__file__).parents[3] / "deploy" / "container.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protheon_container", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


container = load_script()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home and the volumes of a container, below tmp_path; the programs of this environment are on the path."""
    monkeypatch.setenv("PROTHEON_HOME", str(tmp_path))
    monkeypatch.delenv("PROTHEON_TLS_DIR", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setattr(container, "PASSWORD_FILE", tmp_path / "password")
    monkeypatch.setattr(container, "TOKEN_FILE", tmp_path / "token")
    return tmp_path


def test_init_makes_what_is_missing_and_a_second_one_only_a_new_invitation(places: Path) -> None:
    assert container.init() == 0
    made = {name: (places / name).read_bytes() for name in ("password", "config.toml", "authority/ca.pem", "tls/host.pem")}
    token = JoinToken.parse((places / "token").read_text())
    assert token.addresses == ("master:50052",)
    url = tomllib.loads((places / "config.toml").read_text())["database_url"]
    assert url == f"postgresql://protheon:{made['password'].decode()}@postgres:5432/protheon"
    assert [path.name for path in places.iterdir() if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o600] == []

    assert container.init() == 0
    assert {name: (places / name).read_bytes() for name in made} == made
    assert JoinToken.parse((places / "token").read_text()).secret != token.secret


def test_a_container_joins_when_it_has_no_certificate_that_lives_nor_one_to_come_back_by(places: Path) -> None:
    now = datetime.now(UTC)
    old = Authority.create(places / "master", clock=lambda: now - timedelta(days=31, hours=1))
    (places / "token").write_text(old.invite(86400.0, 5, [tls.NOWHERE]))
    with pytest.raises(BrokerUnavailable, match="no master answers"):  # it asks, at an address where nobody is
        container.join_once()

    tls.identity(old, "worker-1", home=places)  # it ended thirty days ago
    with pytest.raises(BrokerUnavailable, match="no master answers"):
        container.join_once()

    tls.identity(Authority.open(places / "master", clock=lambda: now - timedelta(days=30)), "worker-2", home=places)
    (places / "token").unlink()  # what is not wanted is not read
    container.join_once()


def test_a_connection_that_is_up_is_seen_and_one_that_listens_or_goes_elsewhere_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        table = Path("/proc/net/tcp")
        if not table.exists():
            pytest.skip("this system has no /proc/net/tcp, and no container of ours")
        assert not container.is_connected(table.read_text(), port)
        with socket.create_connection(("127.0.0.1", port)):
            assert container.is_connected(table.read_text(), port)
            assert not container.is_connected(table.read_text(), free_port())


class _Health(BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        body = b"x" * 200_000
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


def test_pages_pass_connections_on_to_loopback_and_hang_up_while_nothing_is_there() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Health)
    port, nothing = free_port(), free_port()
    other = free_port()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    async def scenario() -> None:
        passing = asyncio.create_task(container.pages(((port, server.server_address[1]), (other, nothing))))
        url = f"http://127.0.0.1:{port}/healthz"
        try:
            while not await asyncio.to_thread(container.master_is_healthy, url):  # the test's own time-out ends this
                await asyncio.sleep(0.02)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            assert answer.endswith(b"x" * 200_000)
            writer.close()
            await writer.wait_closed()

            reader, writer = await asyncio.open_connection("127.0.0.1", other)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

            _Health.code = 503
            assert not await asyncio.to_thread(container.master_is_healthy, url)
        finally:
            _Health.code = 200
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
        assert not await asyncio.to_thread(container.master_is_healthy, url)

    try:
        asyncio.run(scenario())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)", 143),  # docker stop
    ],
)
def test_the_masters_container_ends_with_it_and_passes_signals_on(body: str, code: int) -> None:
    script = f"import asyncio, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import container\n"
    script += f"sys.exit(asyncio.run(container.master([sys.executable, '-c', 'import sys; {body}'], [({free_port()}, 1)])))"
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == code


def test_the_masters_container_that_is_stopped_while_it_starts_the_master_ends_it() -> None:
    script = f"""
import asyncio, signal, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import container

start = asyncio.create_subprocess_exec
async def stopped_meanwhile(*command):
    process = await start(*command)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.01)  # the loop sees the signal before this is over
    return process
asyncio.create_subprocess_exec = stopped_meanwhile
sys.exit(asyncio.run(container.master([sys.executable, "-c", "import time; time.sleep(60)"], [({free_port()}, 1)])))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 143


def test_the_masters_container_ends_when_its_pages_cannot_be_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        routes = [(taken.getsockname()[1], 1)]
        assert asyncio.run(container.master([sys.executable, "-c", "import time; time.sleep(600)"], routes)) == 1
    assert "cannot be passed on" in capsys.readouterr().err


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert container.main(["nothing"]) == 2
    assert "protheon-container init" in capsys.readouterr().err
