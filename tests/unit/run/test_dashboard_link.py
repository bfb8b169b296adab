"""Where a cluster's page is: asked of what listens at the dashboard's address, whatever that is."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from protheon_dask.run.link import Link, dashboard_page
from protheon_dask.run.master import Master

PANELS = b'{"Individual Protheon": "/individual-protheon-workers"}'


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status.encode(), len(body), body)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The dashboard's link of a port that answers one connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def answer_one() -> None:
            listening.settimeout(20)
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        done = pool.submit(answer_one)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/status"
        done.result(30)


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        (http(PANELS), "/protheon"),
        (http(b'{"Individual Workers": "/individual-workers"}'), "/status"),
        (http(b"", "404 Not Found"), "/status"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "/status"),
        (http(PANELS)[:-5], "/status"),
        (b"", "/status"),
    ],
    ids=["ours", "another's", "not found", "no HTTP", "cut off", "nothing"],
)
def test_our_page_is_linked_where_it_is_and_whatever_else_answers_is_no_error(answer: bytes, path: str) -> None:
    with answering(answer) as dashboard_link:
        assert dashboard_page(dashboard_link) == dashboard_link.replace("/status", path)


@pytest.mark.parametrize("nothing", ["", "dashboard", "http://127.0.0.1:1/status", "http://[::1/status"])
def test_a_link_that_leads_nowhere_stays_what_it_is(nothing: str) -> None:
    assert dashboard_page(nothing) == nothing


def test_the_environments_proxy_is_not_asked_for_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "_opener", None)  # of a look before this one, which knows no proxy
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(http(PANELS)) as dashboard_link:
        assert dashboard_page(dashboard_link).endswith("/protheon")


@pytest.mark.parametrize(
    ("master", "page", "way"),
    [
        ("192.0.2.7:50051", "http://127.0.0.1:8787/status", "ssh -N -L 8787:127.0.0.1:8787 192.0.2.7"),
        ("192.0.2.7:50051", "http://192.0.2.7:8787/status", ""),
        ("127.0.0.1:50051", "http://127.0.0.1:8787/status", ""),
        ("192.0.2.7:50051", "", ""),
    ],
)
def test_a_page_on_another_hosts_loopback_is_reached_by_ssh(master: str, page: str, way: str) -> None:
    with Master(master, None) as client:
        assert Link(client, None, say=print).dashboard_way(page) == way
