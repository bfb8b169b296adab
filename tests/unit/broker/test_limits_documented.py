"""The limits that docs/wire.md tells are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from protheon_dask.broker import calls, client, gate, server

ROWS = {
    cells[0]: cells[1]
    for line in (Path(__file__).parents[3] / "docs/wire.md").read_text().splitlines()
    if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("| ").split(" | ")]) == 3
}
OPTIONS = dict(server.OPTIONS)
CLIENT_OPTIONS = dict(client.OPTIONS)


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a message, each way", f"{OPTIONS['grpc.max_receive_message_length'] >> 20} MiB"),
        (
            "metadata of a call",
            f"{OPTIONS['grpc.max_metadata_size'] >> 10} KiB, at most {OPTIONS['grpc.absolute_max_metadata_size'] >> 10} KiB",
        ),
        ("streams of a connection (`ReadChunk`, `Watch`, `Report`, `Pin`, `Echo`)", f"{gate.CONNECTION_STREAMS}"),
        ("streams of another host, all its connections", f"{gate.HOST_STREAMS}"),
        ("calls of a connection", f"{OPTIONS['grpc.max_concurrent_streams']}"),
        ("a reader who takes nothing", f"{calls.READER_S:g} s"),
        ("a connection that does not speak", f"{OPTIONS['grpc.server_handshake_timeout_ms'] // 1_000} s"),
        ("a connection without calls", f"{OPTIONS['grpc.max_connection_idle_ms'] // 60_000} min"),
        ("age of a connection", f"{OPTIONS['grpc.max_connection_age_ms'] // 3_600_000} h; calls that are open go on"),
    ],
)
def test_the_page_tells_the_limits_that_hold(what: str, limit: str) -> None:
    assert ROWS[what] == limit


def test_both_ends_have_the_same_limit_of_a_message() -> None:
    for name in ("grpc.max_receive_message_length", "grpc.max_send_message_length"):
        assert OPTIONS[name] == CLIENT_OPTIONS[name]


def test_half_the_threads_are_what_a_client_may_have() -> None:
    assert calls.SHARE * 2 == calls.POOL_THREADS
    assert ROWS["calls at work at a time"].startswith("half the threads of each service")
