"""Who a caller is, by what gRPC tells of a connection."""

from __future__ import annotations

import pytest

from protheon_dask.broker.cluster_wire import Enrolment, Versions, seen_from
from protheon_dask.broker.peers import HERE, Peer, address_of, is_loopback


@pytest.mark.parametrize(
    ("connection", "address", "loopback"),
    [
        ("ipv4:127.0.0.1:40000", "127.0.0.1", True),
        ("ipv4:127.8.0.1:40000", "127.8.0.1", True),
        ("ipv4:192.168.1.4:127", "192.168.1.4", False),
        ("ipv6:%5B::1%5D:40000", "::1", True),
        ("ipv6:[::1]:40000", "::1", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:40000", "::ffff:127.0.0.1", True),  # of a socket that listens on [::]
        ("ipv6:%5B::ffff:10.0.0.1%5D:40000", "::ffff:10.0.0.1", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:40000", "fe80::1%eth0", False),
        ("ipv6:%5B2001:db8::1%5D:40000", "2001:db8::1", False),
    ],
)
def test_a_connections_address_is_read_from_its_name(connection: str, address: str, loopback: bool) -> None:
    assert (address_of(connection), is_loopback(address)) == (address, loopback)


def test_a_local_socket_has_no_address() -> None:
    assert address_of("unix:/run/broker") == ""


def test_a_host_is_one_party_and_on_the_masters_own_each_connection_is() -> None:
    def peer(host: str, address: str, port: int, *, is_here: bool) -> Peer:
        return Peer(host, address, f"ipv4:{address}:{port}", is_here)

    assert peer("nuc", "10.0.0.2", 1, is_here=False).party == peer("nuc", "10.0.0.9", 2, is_here=False).party == "nuc"
    assert peer("", "10.0.0.2", 1, is_here=False).party == peer("", "10.0.0.2", 2, is_here=False).party == "10.0.0.2"
    assert peer("", "127.0.0.1", 1, is_here=True).party != peer("", "127.0.0.1", 2, is_here=True).party
    assert HERE.is_here


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("tls://0.0.0.0:8786", "tls://nuc.lan:8786"),
        ("tcp://[::]:8786", "tcp://nuc.lan:8786"),
        ("tls://10.0.0.1:8786", "tls://10.0.0.1:8786"),
        ("tls://[2001:db8::1]:8786", "tls://[2001:db8::1]:8786"),
    ],
)
def test_a_scheduler_that_listens_everywhere_is_where_the_broker_was_reached(told: str, seen: str) -> None:
    enrolled = seen_from(Enrolment(told, "0.1.0", Versions(), {}), "nuc.lan:50051")
    assert (enrolled.scheduler_address, enrolled.is_scheduler_everywhere) == (seen, seen != told)


def test_an_ipv6_broker_is_put_in_with_its_brackets() -> None:
    assert seen_from(Enrolment("tls://[::]:8786", "0.1.0", Versions(), {}), "[fd00::1]:50051").scheduler_address == "tls://[fd00::1]:8786"
