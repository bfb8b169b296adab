"""The faults themselves, tried on two hosts: a test of a broken network proves nothing where the network was whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.fixtures.network import Host, Network, needs_groups, needs_network, new_network
from tests.fixtures.processes import has_ended

pytestmark = [needs_network, pytest.mark.slow]

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
    door.bind(("0.0.0.0", 7))
    print("ready", flush=True)
    while True:
        door.sendto(*door.recvfrom(100))
"""
CALL = """
import json, socket, sys, time
took = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as call:
    call.settimeout(0.1)
    for _ in range(int(sys.argv[2])):
        began = time.monotonic()
        try:
            call.sendto(b"x", (sys.argv[1], 7))
            call.recv(10)
            took.append(time.monotonic() - began)
        except OSError:
            continue
print(json.dumps(took))
"""
SINK = """
import socket
with socket.create_server(("0.0.0.0", 9)) as door:
    print("ready", flush=True)
    while True:
        call, _ = door.accept()
        with call:
            while call.recv(1 << 20):
                pass
            call.sendall(b"x")
"""
SEND = """
import socket, sys, time
n_bytes = int(sys.argv[2])
with socket.create_connection((sys.argv[1], 9)) as call:
    began = time.monotonic()
    call.sendall(bytes(n_bytes))
    call.shutdown(socket.SHUT_WR)
    call.recv(1)
    print(8 * n_bytes / (time.monotonic() - began))
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """``there`` answers datagrams, and takes streams."""
    services = []
    with new_network("here", "there") as made:
        for text in (ECHO, SINK):
            service = subprocess.Popen(
                made.hosts["there"].inside([sys.executable, "-S", "-c", text]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            services.append(service)
            assert service.stdout is not None
            assert service.stdout.readline() == b"ready\n"
        yield made
        for service in services:
            service.kill()
            service.communicate()


@pytest.fixture
def here(network: Network) -> Host:
    return network.hosts["here"]


@pytest.fixture
def there(network: Network) -> Host:
    return network.hosts["there"]


def call(here: Host, there: Host, n: int = 3) -> list[float]:
    """The seconds that each answer took; one that is lost is not among them."""
    done = here.run([sys.executable, "-S", "-c", CALL, there.address, n])
    took: list[float] = json.loads(done.stdout)
    return took


def n_heard(there: Host) -> int:
    """Datagrams that came through to the one who answers them."""
    [names, numbers] = [
        line.split() for line in Path(f"/proc/{there.space.pid}/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    ]
    return int(numbers[names.index("InDatagrams")])


def bits_per_s(here: Host, there: Host, n_bytes: int) -> float:
    return float(here.run([sys.executable, "-S", "-c", SEND, there.address, n_bytes]).stdout)


def test_a_host_has_its_own_name_and_nobody_outside_reaches_it(here: Host) -> None:
    assert here.run(["hostname"]).stdout.strip() == "here"
    outside = subprocess.run([sys.executable, "-S", "-c", CALL, here.address, "1"], capture_output=True, text=True, check=True)
    assert json.loads(outside.stdout) == []


def test_an_unplugged_host_is_silent_and_is_back_when_it_is_plugged_in(here: Host, there: Host) -> None:
    assert len(call(here, there)) == 3
    there.unplug()
    assert call(here, there) == []
    there.plug()
    assert len(call(here, there)) == 3


def test_one_direction_alone_is_black_holed(network: Network, here: Host, there: Host) -> None:
    ways: list[tuple[Callable[[], None], bool]] = [(lambda: network.silence(there), True), (there.deafen, False)]
    for cut, is_heard in ways:
        before = n_heard(there)
        cut()
        assert call(here, there) == []
        assert n_heard(there) - before == (3 if is_heard else 0)
        network.heal()
        assert len(call(here, there)) == 3


def test_a_share_of_the_packets_is_lost(here: Host, there: Host) -> None:
    there.lose(0.5)
    n_answers = len(call(here, there, 16))
    there.heal()
    assert 1 <= n_answers <= 15  # beyond: once in 32,000 times


def test_a_long_cable_delays_each_way_and_is_short_again(here: Host, there: Host) -> None:
    there.lengthen(0.025)
    call(here, there, 2)  # the first asks who has the address
    delayed = call(here, there, 5)
    there.shorten()
    assert len(delayed) == 5
    assert min(delayed) >= 0.05
    call(here, there, 2)
    assert min(call(here, there, 5)) < 0.025


def test_a_cable_carries_no_more_than_its_rate(here: Host, there: Host) -> None:
    free = bits_per_s(here, there, 4_000_000)
    here.limit_rate(40_000_000)
    bound = bits_per_s(here, there, 4_000_000)
    here.free_rate()
    assert bound < 44_000_000
    assert free > 2 * bound


@needs_groups
def test_a_small_host_computes_slowly_and_what_outgrows_its_memory_is_killed(here: Host) -> None:
    here.limit_cpu(0.2)
    before_s, began_s = here.cpu_s(), time.monotonic()
    here.run([sys.executable, "-S", "-c", "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"])
    share = (here.cpu_s() - before_s) / (time.monotonic() - began_s)
    here.limit_cpu(4)
    assert share < 0.3
    here.limit_memory(64 << 20)
    grown = here.run([sys.executable, "-S", "-c", "bytearray(200 << 20)"])
    assert grown.returncode != 0
    assert here.n_killed_for_memory() == 1
    assert here.peak_memory_bytes() <= 64 << 20


def test_what_runs_on_a_host_ends_with_its_network(tmp_path: Path) -> None:
    with new_network("alone") as network:
        process = network.hosts["alone"].start(["sh", "-c", "sleep 1000 & wait"], os.environ, tmp_path / "log")
        shell = psutil.Process(process.pid)
        while not shell.children():
            time.sleep(0.01)
        [child] = shell.children()
    assert has_ended(shell)
    assert has_ended(child)
