"""What a client of another host may ask of a master, over real mutual TLS: its paths lie below source_roots, its code is signed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from protheon_dask.broker import wire
from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.pin_wire import PinRequest
from protheon_dask.broker.thread import BrokerThread
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, NotAllowed
from protheon_dask.pipelines.find import find
from protheon_dask.pipelines.pack import pack
from protheon_dask.run.coordinator import Coordinator
from protheon_dask.run.desk import ChunkDesk, Place, RunDesk
from protheon_dask.run.pins import PinDesk
from protheon_dask.workspace.chunkfile import ChunkStore
from protheon_dask.workspace.pins import PinStore
from tests.fixtures.cluster import ask
from tests.fixtures.tls import MASTER, authority, identity
from tests.integration.run.conftest import KEY, Bench, pipeline_file


@dataclass
class Remote:
    """A master's desks, a client on its own host, and one on another."""

    here: BrokerClient
    there: BrokerClient
    directory: Path

    def submission(self, *paths: Path) -> wire.Submission:
        packed = pack(find(pipeline_file(self.directory)), KEY)
        return wire.Submission(paths=tuple(map(str, paths)), pipeline=packed, request_id=str(uuid4()))


@pytest.fixture
def remote(ledger_database: str, tmp_path: Path) -> Iterator[Remote]:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lines.txt").write_text("1\n")
    (tmp_path / "open" / "link.txt").symlink_to(tmp_path / "closed" / "lines.txt")
    settings = Settings(source_roots=str(tmp_path / "open"))
    store = ChunkStore(tmp_path / "workspace", 1 << 30)
    coordinator = Coordinator(settings, ledger_database, "tls://127.0.0.1:9", store, uuid4(), 1)  # leads nothing, and runs not
    runs = RunDesk(settings, ledger_database, coordinator, Place("", "", ""), ephemeral=False)
    made = authority(tmp_path)
    with ExitStack() as stack:
        pins = stack.enter_context(PinDesk(settings, PinStore(tmp_path / "pins", 1 << 30), lambda: 1))
        chunks = ChunkDesk(ledger_database, store, lambda _: None)
        server = stack.enter_context(BrokerThread(runs, chunks, "127.0.0.1", 0, pins=pins, tls=identity(made, MASTER)))
        clients = [stack.enter_context(BrokerClient(f"127.0.0.1:{server.port}", identity(made, name))) for name in (MASTER, "nuc")]
        yield Remote(clients[0], clients[1], tmp_path)


def test_a_submission_from_another_host_loads_what_lies_below_source_roots_and_nothing_else(remote: Remote, ledger_database: str) -> None:
    for name in ("closed/lines.txt", "open/link.txt", "open/*.txt", "open/../closed/lines.txt", "closed/none.txt"):
        with pytest.raises(NotAllowed, match=r"source_roots is .*open: add the directory.*or submit from that host"):
            remote.there.submit(remote.submission(remote.directory / name))
    assert ask(ledger_database, "SELECT count(*) FROM protheon.run") == [(0,)]

    assert remote.there.submit(remote.submission(remote.directory / "open/lines.txt")).loads[0].joined == "new"
    assert len(remote.here.submit(remote.submission(remote.directory / "open/*.txt", remote.directory / "closed")).loads) >= 1


def test_pins_of_another_host_are_held_to_the_same(remote: Remote) -> None:
    def pinned(client: BrokerClient, name: str) -> int:
        return len(list(client.pin(PinRequest(uuid4().hex, (str(remote.directory / name),), 60.0, 0, 0))))

    for name in ("closed/lines.txt", "open/link.txt"):
        with pytest.raises(NotAllowed, match="source_roots"):
            pinned(remote.there, name)
        assert pinned(remote.here, name) == 1
    assert pinned(remote.there, "open/lines.txt") == 1


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._path,))


def test_code_that_was_written_into_the_ledger_without_the_clusters_key_is_not_unpickled(bench: Bench) -> None:
    bench.submit("1\n")
    trace = bench.directory / "it_ran"
    with psycopg.connect(bench.url, autocommit=True) as conn:  # as one who has the database, and not the key
        n_rows = conn.execute(
            "UPDATE protheon.pipeline SET object = %s WHERE run_id = %s", (pickle.dumps(Bomb(trace)), bench.run_id)
        ).rowcount
    assert n_rows == 1
    assert bench.worker().run(bench.dispatch()) in ("failed", "misfit")
    [(error_class, message)] = bench.ask("SELECT error_class, message FROM protheon.attempt")
    assert error_class == ConfigError.__name__
    assert message == "pipeline numbers: its signature is not of this cluster's key; it was not unpickled"
    assert not trace.exists()
    assert bench.numbers() == []
    pickle.loads(pickle.dumps(Bomb(trace)))  # it would have
    assert trace.exists()
