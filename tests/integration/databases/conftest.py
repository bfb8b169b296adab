"""Servers of these tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Gate
from tests.fixtures.own_postgres import OwnServer, make_certificate
from tests.fixtures.postgres import find_test_binaries, scratch_dir


@pytest.fixture(scope="module")
def own_server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """One server a module, with passwords, TLS, and the module's SERVER_SETTINGS."""
    with scratch_dir() as root:
        server = OwnServer(find_test_binaries(), root, getattr(request.module, "SERVER_SETTINGS", {}))
        server.settings = {**server.settings, **make_certificate(root)}
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Closed; opened at the latest at the end of the test."""
    made = Gate(tmp_path / "open")
    yield made
    made.open()
