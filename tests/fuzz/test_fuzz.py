"""The fuzzer's seeds, what it once found, and a short run of it; `make fuzz` runs it longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.fuzz.__main__ import CORPUS, first_inputs
from tests.fuzz.seeds import bomb, seeds, xz_dictionary, zstd_window

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")

ROOT = Path(__file__).parents[2]
DECOMPRESS = """
import io, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) << 20,) * 2)
from protheon_dask.errors import SourceDamaged
from protheon_dask.workspace.archives import open_archive
n_bytes = 0
try:
    for block in open_archive(io.BytesIO(sys.stdin.buffer.read())):
        n_bytes += len(block)
    print("whole", n_bytes)
except (SourceDamaged, MemoryError) as exc:
    print(type(exc).__name__)
"""


def decompress(archive: bytes, limit_mib: int) -> str:
    """What comes of an archive in a process that may have so much address space."""
    done = subprocess.run([sys.executable, "-c", DECOMPRESS, str(limit_mib)], input=archive, capture_output=True, check=False, timeout=60)
    return (done.stdout or done.stderr).decode().strip()


def test_seeds_and_old_findings_pass(tmp_path: Path) -> None:
    inputs = first_inputs()
    assert len(inputs) == len(list(seeds())) + len(list(CORPUS.glob("[!.]*")))
    for data in inputs:
        targets.run(data, tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_finding_is_kept_and_ends_the_fuzzer(tmp_path: Path) -> None:
    """An input whose damage no reference sees: the fuzzer is told so by a product that is broken on purpose."""
    broken = (
        "import sys, protheon_dask.workspace.archives as archives\n"
        "archives._Gzip.errors = (LookupError,)\n"
        "from tests.fuzz.__main__ import main\n"
        f"sys.argv = ['fuzz', '--seconds', '20', '--seed', '1', '--without-atheris', '--found', {str(tmp_path)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", broken], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "zlib.error" in done.stderr
    [kept] = tmp_path.iterdir()
    again = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", str(kept)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("archive", "ended"),
    [
        pytest.param(zstd_window(27), "whole 6", id="zstd's usual longest window"),
        pytest.param(zstd_window(31), "MemoryError", id="a window of 2 GiB"),
        pytest.param(zstd_window(41), "SourceDamaged", id="a window of 2 TiB"),
        pytest.param(xz_dictionary(36), "MemoryError", id="a dictionary of 1 GiB"),
        pytest.param(xz_dictionary(40), "SourceDamaged", id="a dictionary of 4 GiB"),
        pytest.param(bomb(300 << 20), "whole 314572800", id="a gzip bomb of 300 MiB"),
    ],
)
def test_an_archive_that_wants_more_memory_than_there_is_does_not_get_it(archive: bytes, ended: str) -> None:
    assert decompress(archive, 280) == ended


def test_windows_that_are_declared_and_not_used_cost_nothing() -> None:
    code = (
        "import io, resource\n"
        "from protheon_dask.workspace.archives import open_archive\n"
        "from tests.fuzz.seeds import zstd_window\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert b''.join(open_archive(io.BytesIO(zstd_window(31, 100)))) == b'hello\\n' * 100\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 64 << 20


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--without-atheris"], []], ids=["by chance", "by branches, where atheris is"])
def test_twenty_seconds_find_nothing(how: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "20", "--found", str(tmp_path), *how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-5_000:]
    assert not list(tmp_path.iterdir())
