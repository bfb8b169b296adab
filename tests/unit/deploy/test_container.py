"""What the containers run around `protheon`: with real sockets, files and processes, and no engine."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "container.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("protheon_container", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


container = load_script()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_secret_is_written_for_its_owner_alone_over_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "password"
    (tmp_path / "password.new").write_text("half")
    (tmp_path / "password.new").chmod(0o644)
    container.write_owned(path, "first")
    container.write_owned(path, "second")
    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


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

            reader, writer = await asyncio.open_connection("127.0.0.1", other)
            assert await reader.read() == b""
            writer.close()

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


def test_an_unknown_part_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert container.main(["nothing"]) == 2
    assert "protheon-container init" in capsys.readouterr().err
