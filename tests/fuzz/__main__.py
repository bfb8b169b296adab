"""Fuzz archives, cutting and the chunk stream: ``python -m tests.fuzz --seconds 60 [--found DIRECTORY] [INPUT ..]``.

With atheris (the extra ``fuzz``) new inputs are chosen by the branches that they reach; without it they are changes of the
seeds, by a seed of their own that is told. Given inputs are run once each and nothing else is.

What an input may not do: raise, take longer than 10 s, or bring the process above 3 GiB. Then it is kept in --found and the
exit code is not 0.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib.util
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.seeds import seeds

CORPUS = Path(__file__).with_name("corpus")
INPUT_S = 10  # an input takes milliseconds, a bomb that is cut off a second
MEMORY_BYTES = 3 << 30  # address space: a window of 2 GiB, once, and the process itself
MOST_INPUT_BYTES = 64 << 10


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--without-atheris", action="store_true")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("inputs", type=Path, nargs="*")
    options = parser.parse_args()
    # In memory where there is such a place: each chunk is brought to its disk, and that would be most of the time.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        directory = Path(name)
        if options.inputs:
            return _run_once(options.inputs, directory)
        if options.without_atheris or importlib.util.find_spec("atheris") is None:
            return _change_seeds(options.seconds, options.seed, options.found, directory)
        return _follow_branches(options.seconds, options.found, directory)


def first_inputs() -> list[bytes]:
    """The seeds, and what once found something."""
    return [*seeds(), *(path.read_bytes() for path in sorted(CORPUS.glob("[!.]*")))]


def _run_once(paths: list[Path], directory: Path) -> int:
    from tests.fuzz import targets

    for path in paths:
        targets.run(path.read_bytes(), directory)
    return 0


def _change_seeds(seconds: int, seed: int, found: Path, directory: Path) -> int:
    from tests.fuzz import targets

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    faulthandler.register(signal.SIGALRM, chain=True)  # the default action ends the process: where it hung is on stderr
    pool, chance, n_inputs, end_at = first_inputs(), random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < end_at:
        data = pool[n_inputs] if n_inputs < len(pool) else _changed(pool, chance)
        found.mkdir(parents=True, exist_ok=True)
        kept = found / hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]
        kept.write_bytes(data)  # before it runs: a hang or the end of memory ends the process
        signal.alarm(INPUT_S)
        targets.run(data, directory)
        signal.alarm(0)
        kept.unlink()
        n_inputs += 1
    print(f"{n_inputs} inputs from seed {seed}, nothing found")
    return 0


def _changed(pool: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(chance.choice(pool))
    changes: tuple[Callable[[int], None], ...] = (
        lambda at: data.__setitem__(slice(at, at + 1), bytes([chance.randrange(256)])),
        lambda at: data.__setitem__(slice(at, at + 1), bytes([data[at] ^ 1 << chance.randrange(8)]) if at < len(data) else b""),
        lambda at: data.__setitem__(slice(at, at), chance.randbytes(chance.randrange(1, 9))),
        lambda at: data.__delitem__(slice(at, at + chance.randrange(1, 30))),
        lambda at: data.__delitem__(slice(at, None)),
        lambda at: data.extend(chance.choice(pool)[1:]),
    )
    for _ in range(chance.randrange(1, 5)):
        chance.choice(changes)(chance.randrange(1, len(data) + 2))
    return bytes(data[:MOST_INPUT_BYTES])


def _follow_branches(seconds: int, found: Path, directory: Path) -> int:
    import atheris  # type: ignore[import-not-found]  # the extra "fuzz"; it has no types

    with atheris.instrument_imports(include=["protheon_dask.workspace", "protheon_dask.broker.chunks"]):
        from tests.fuzz import targets
    found.mkdir(parents=True, exist_ok=True)
    corpus = directory / "corpus"
    corpus.mkdir()
    for i, data in enumerate(first_inputs()):
        (corpus / f"{i:04d}").write_bytes(data)
    files = directory / "files"
    files.mkdir()
    limits = [f"-max_total_time={seconds}", f"-timeout={INPUT_S}", f"-rss_limit_mb={MEMORY_BYTES >> 20}", f"-max_len={MOST_INPUT_BYTES}"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={found}/", str(corpus)], lambda data: targets.run(data, files))
    atheris.Fuzz()  # ends the process by itself
    return 0


if __name__ == "__main__":
    sys.exit(main())
