"""A broker of this process over a directory of chunk files, and a broker process that can be killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from protheon_dask.broker.client import BrokerClient
from protheon_dask.broker.thread import BrokerThread
from tests.fixtures.broker import BrokerProcess, ChunkFolder, Runs


@pytest.fixture
def folder(tmp_path: Path) -> ChunkFolder:
    return ChunkFolder(tmp_path)


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def sent() -> Counter[int]:
    """Bytes that the broker sent, by chunk."""
    return Counter()


@pytest.fixture
def broker(runs: Runs, folder: ChunkFolder, sent: Counter[int]) -> Iterator[BrokerThread]:
    def count(chunk_id: int, n_bytes: int) -> None:
        sent[chunk_id] += n_bytes

    with BrokerThread(runs, folder, "127.0.0.1", 0, on_sent=count) as thread:
        yield thread


@pytest.fixture
def client(broker: BrokerThread) -> Iterator[BrokerClient]:
    with BrokerClient(f"127.0.0.1:{broker.port}") as client:
        yield client


@pytest.fixture
def broker_process(tmp_path: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess(tmp_path)
    yield process
    process.kill()
