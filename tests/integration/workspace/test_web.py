"""Sources on web servers, good and bad ones: real sockets, ranges, breaks, changes, passwords."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from protheon_dask.errors import ConfigError, NotFound, SourceChanged, SourceUnavailable
from protheon_dask.model import Identity
from protheon_dask.workspace.source import WHOLE_BYTES, estimate_lines, identify, open_source, resolve, stat
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitFailed, split
from tests.fixtures.web import WebServer
from tests.unit.workspace.test_archives import PACK, noise
from tests.unit.workspace.test_splitting import ENDLESS, job_for, raw_of, run


class ThreadingHTTPServerV6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


SERVERS = [{}, {"ranges": False}, {"tells_size": False, "ranges": False}, {"etag": ""}]


@pytest.mark.parametrize("how", SERVERS, ids=str)
def test_a_source_is_the_same_from_any_server(web_server: WebServer, tmp_path: Path, how: dict[str, object]) -> None:
    raw = noise(3_000_000).replace(b"a", b"\n")
    packed = PACK["zstd"]([raw[:1_000_000], raw[1_000_000:]])
    web_server.add("/a.zst", packed, **how)
    (tmp_path / "a.zst").write_bytes(packed)
    url, local = web_server.url("/a.zst"), str(tmp_path / "a.zst")
    assert resolve([url]) == [url]
    assert identify(url) == identify(local)
    assert estimate_lines(url, len(packed)) == estimate_lines(local, len(packed))
    assert stat(url) == stat(url)
    job = job_for(tmp_path / "a.zst", tmp_path / "local", chunk_lines=5_000)
    from_web = job_for(tmp_path / "a.zst", tmp_path / "web", chunk_lines=5_000)
    from_web = msgspec.structs.replace(from_web, path=url)
    cut, ended = run(from_web)
    assert (cut, ended) == run(job)
    assert b"".join(raw_of(from_web, chunk.manifest) for chunk in cut) == raw
    wanted = msgspec.structs.replace(from_web, wanted=(cut[-1].manifest,))
    [again], _ = run(wanted)
    assert raw_of(wanted, again.manifest) == raw_of(from_web, cut[-1].manifest)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_large_source_is_identified_by_its_samples_in_ascending_order(web_server: WebServer, tmp_path: Path, ranges: bool) -> None:
    content = bytes(WHOLE_BYTES) + b"end of it" * 100_000
    resource = web_server.add("/large", content, ranges=ranges)
    (tmp_path / "large").write_bytes(content)
    assert identify(web_server.url("/large")) == identify(str(tmp_path / "large"))
    assert len(resource.requests) == (5 if ranges else 2)  # the second tells that there are no ranges


def test_an_empty_resource_is_an_empty_source(web_server: WebServer) -> None:
    web_server.add("/empty", b"")
    assert identify(web_server.url("/empty")).size_bytes == 0
    assert estimate_lines(web_server.url("/empty"), 0) == 0


@pytest.mark.parametrize("how", SERVERS[:3], ids=str)
def test_a_connection_that_breaks_once_is_made_anew_at_the_same_place(web_server: WebServer, how: dict[str, object]) -> None:
    content = noise(1_000_000)
    resource = web_server.add("/a", content, breaks_at=600_000, breaks=1, **how)
    with open_source(web_server.url("/a")) as fileobj:
        read = b"".join(iter(lambda: fileobj.read(65_536), b""))
    assert read == content
    wanted = [asked for asked, _ in resource.requests]
    assert wanted[0] is None
    assert wanted[1:] == ["bytes=600000-"]


@pytest.mark.parametrize("how", SERVERS[:3], ids=str)
def test_a_server_that_always_breaks_off_is_unavailable_and_what_was_cut_stands(
    web_server: WebServer, tmp_path: Path, how: dict[str, object]
) -> None:
    content = b"".join(b"%d\n" % n for n in range(200_000))
    (tmp_path / "a").write_bytes(content)
    n_before = 2 if how.get("tells_size", True) else 3  # to open, for the stamp, and to find the size
    web_server.add("/a", content, breaks_at=len(content) - 1_000, good=n_before, **how)
    job = msgspec.structs.replace(job_for(tmp_path / "a", tmp_path / "ws", chunk_lines=20_000), path=web_server.url("/a"))
    *cut, last = split(job, Credit(ENDLESS))
    assert isinstance(last, SplitFailed), last
    assert last.kind == "unavailable"
    assert "/a: cannot be read on host" in last.message
    assert len(cut) == 8  # those of the first MiB
    assert isinstance(cut[-1], ChunkCut)
    web_server.resources["/a"].breaks = 0
    rest, ended = run(msgspec.structs.replace(job, resume_after=cut[-1].manifest))
    assert ended == SplitEnded(10, 200_000, len(content))
    assert [chunk.manifest.n_lines for chunk in rest] == [20_000] * 2


def test_a_resource_that_changes_while_it_is_read_is_a_change(web_server: WebServer) -> None:
    resource = web_server.add("/a", noise(4_000_000))
    with open_source(web_server.url("/a")) as fileobj:
        fileobj.read(1)
        resource.content, resource.etag = noise(4_000_000, seed=2), '"2"'
        fileobj.seek(3_000_000)
        with pytest.raises(SourceChanged, match="/a: it changed while it was read"):
            fileobj.read(1)


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (410, NotFound), (403, ConfigError), (401, ConfigError), (500, SourceUnavailable), (503, SourceUnavailable)],
)
def test_a_refusal_is_the_operators_and_a_failure_the_clocks(web_server: WebServer, status: int, error: type[Exception]) -> None:
    web_server.add("/a", b"1\n", status=status)
    for ask in (identify, stat, open_source, lambda url: resolve([url])):
        with pytest.raises(error) as caught:
            ask(web_server.url("/a"))
        assert type(caught.value) is error
        assert web_server.url("/a") in str(caught.value)
        assert str(status) in str(caught.value)


def test_a_glob_of_a_web_server_is_told_that_there_are_none(web_server: WebServer) -> None:
    web_server.add("/a/1.jsonl", b"1\n")
    web_server.add("/a/[x].jsonl", b"2\n")
    assert resolve([web_server.url("/a/[x].jsonl")]) == [web_server.url("/a/[x].jsonl")]  # a name that exists is no glob
    with pytest.raises(NotFound, match="web servers have no globs: name each file"):
        resolve([web_server.url("/a/*.jsonl")])
    with pytest.raises(NotFound) as plain:
        resolve([web_server.url("/a/2.jsonl?x=*")])
    assert "globs" not in str(plain.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with pytest.raises(SourceUnavailable, match="refused"):
            resolve([f"http://127.0.0.1:{taken.getsockname()[1]}/a"])


def test_a_password_opens_the_door_and_is_seen_nowhere_else(web_server: WebServer) -> None:
    web_server.add("/a", b"1\n", password="ann:s3 cr3t")
    url = web_server.url("/a", "ann:s3%20cr3t")
    assert identify(url) == Identity(2, identify(url).digest)
    with pytest.raises(ConfigError) as caught:
        resolve([web_server.url("/a", "ann:wr0ngword")])
    assert "ann:***@" in str(caught.value)
    assert "wr0ngword" not in str(caught.value)


def test_a_redirection_is_followed_without_the_password(web_server: WebServer) -> None:
    web_server.add("/old", b"", moved_to=web_server.url("/new", host="localhost"))
    web_server.add("/new", b"1\n")
    assert identify(web_server.url("/old", "ann:s3cr3t")).size_bytes == 2
    assert {path: sent is not None for path, sent in web_server.asked} == {"/old": True, "/new": False}


def test_a_url_may_be_typed_as_a_browser_shows_it(web_server: WebServer) -> None:
    web_server.add("/b%C3%BCcher%20a/%25.jsonl", b"1\n2\n")
    url = web_server.url("/bücher a/%25.jsonl?sig=a%2Fb&say=ä b")
    assert resolve([url]) == [url]
    assert identify(url).size_bytes == 4
    assert {path.partition("?")[2] for path, _ in web_server.asked} == {"sig=a%2Fb&say=%C3%A4%20b"}


@pytest.mark.parametrize(
    "url", ["http://ann:s3/cr3t@host/a", "http://ann:s3cr3t@host:x/a", "http:///a", "http://[7:1/a", "https://host..org/a"]
)
def test_what_is_no_url_is_the_operators_and_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigError, match="not the URL of a web server") as caught:
        resolve([url])
    assert "cr3t" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_a_certificate_that_nobody_vouches_for_is_the_operators(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # its client goes away
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            with pytest.raises(ConfigError, match=r"its certificate is not trusted on host .*CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
                resolve([f"https://127.0.0.1:{server.server_port}/a"])
        finally:
            server.shutdown()


def test_a_server_may_have_an_ipv6_address() -> None:
    with ThreadingHTTPServerV6(("::1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            url = f"http://ann:s3cr3t@[::1]:{server.server_port}/no such file"
            with pytest.raises(NotFound, match=rf"http://ann:\*\*\*@\[::1\]:{server.server_port}/no such file"):
                resolve([url])
        finally:
            server.shutdown()
