"""A port that another program takes between the look at it and the bind is no error: the cluster starts on others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError
from protheon_dask.run import api, local, parts
from protheon_dask.run.supervise import Part
from tests.fixtures.cluster import StartCluster

PART = """
import socket, sys, time
if sys.argv[1:]:
    listening = socket.socket()
    try:
        listening.bind(("127.0.0.1", int(sys.argv[1])))
    except OSError:
        sys.exit(2)
    listening.listen()
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def listening_program() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.socket() as taken:
        taken.bind((local.LOOPBACK, 0))
        taken.listen()
        yield taken.getsockname()[1]


class SmallCluster(local.LocalCluster):
    """A scheduler and a broker that only listen; the broker's port is the first of broker_ports, whoever has it."""

    broker_ports: list[int]

    def _start_all(self, settings: Settings, env: Mapping[str, str]) -> None:  # as the real one
        self._ports = [self.broker_ports.pop(0)]
        self._processes.start(self._part("scheduler", [], env), self._stack)
        self._processes.start(self._part("broker", self._ports, env), self._stack).first_line(30.0)

    def _part(self, name: str, ports: Sequence[int], env: Mapping[str, str]) -> Part:
        return Part(name, ["-c", PART, *map(str, ports)], env, self._home / f"{name}.log", grace_s=1.0)


@pytest.fixture
def small_cluster(tmp_path: Path) -> SmallCluster:
    effective = api.read_settings({"home": str(tmp_path), "exit_grace_s": 2})
    database = local.Database("postgresql://nowhere", "", "--into")
    return SmallCluster(effective, database, workers=1, force_own=True, on_event=print)


def test_a_part_that_lost_its_port_is_started_on_another_with_all_others(small_cluster: SmallCluster) -> None:
    with listening_program() as port, small_cluster._stack:
        small_cluster.broker_ports = [port, local.free_port(0)]
        small_cluster._start_where_free(small_cluster.settings, os.environ)
        assert (small_cluster.broker_ports, [part.part.name for part in small_cluster._processes.values()]) == ([], ["scheduler", "broker"])
        small_cluster.check()  # the first scheduler's end is not this one's
        parts = [part.process for part in small_cluster._processes.values()]
        assert [part.poll() for part in parts] == [None, None]
        small_cluster.__exit__(None, None, None)
    assert None not in [part.poll() for part in parts]


def test_whoever_takes_every_port_is_told_of(small_cluster: SmallCluster) -> None:
    with listening_program() as port, small_cluster._stack:
        small_cluster.broker_ports = [port] * local.START_TRIES
        with pytest.raises(ConfigError, match="the broker ended with code 2"):
            small_cluster._start_where_free(small_cluster.settings, os.environ)
        assert small_cluster.broker_ports == []


def test_another_failure_is_not_tried_again(small_cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening_program() as port, small_cluster._stack:
        small_cluster.broker_ports = [port, local.free_port(0)]
        monkeypatch.setattr(local, "_is_taken", lambda port: False)  # its fault is another
        with pytest.raises(ConfigError, match="the broker ended with code 2"):
            small_cluster._start_where_free(small_cluster.settings, os.environ)


@pytest.fixture
def one_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chance gives this one each time."""
    port = local.free_port(0)
    monkeypatch.setattr(parts, "SERVER_PORTS", (port, port))
    return port


def test_chance_does_not_give_two_servers_one_port(one_port: int) -> None:
    given = [local.free_port(0)]
    for _ in range(3):
        given.append(local.free_port(0, but_not=given))
    assert given[0] == one_port
    assert len(set(given)) == 4


@pytest.mark.slow
def test_a_real_cluster_starts_though_chance_gives_one_port_again(start_cluster: StartCluster, one_port: int) -> None:
    with start_cluster(workers=1) as cluster:
        assert cluster.client.info().n_threads == 1
        assert str(one_port) in cluster.client.info().scheduler_address


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["scheduler", "broker", "http"])
def test_a_real_cluster_starts_though_a_port_was_lost(start_cluster: StartCluster, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    free = local.free_port
    with listening_program() as port:
        answers = [free(0) for _ in range({"scheduler": 0, "broker": 2, "http": 3}[lost])] + [port]
        monkeypatch.setattr(local, "free_port", lambda wanted, but_not=(): answers.pop(0) if answers else free(wanted, but_not=but_not))
        with start_cluster(workers=1) as cluster:
            assert not answers
            assert cluster.client.info().n_threads == 1
