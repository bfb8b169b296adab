"""The campaign's data: compressed sources whose every line the oracle can judge. Imports nothing of the product.

What the lines are made to show:

- *Identical chunks*: some blocks of exactly ``chunk_lines`` lines stand twice in one source and again in others, byte for byte. Their rows
  count by multiplicity, so a chunk that is taken for its twin is a loss.
- *Identical lines*: the same line stands many times, in chunks that differ.
- *Meetings*: keys of ``firsts``, ``latest`` and ``totals`` are drawn from few, skewed ones that all sources share, with ties of ``latest``.
- *Contested keys*: lines of different chunks and sources want the same key of ``keyed``, and exactly one of them may have it.
- *Every ending of a line*: loaded with and without children and refused parts, filtered, blank, refused by the pipeline, by its decoder
  and by the server in its last table; CR LF, a BOM, a last line without an end.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import zstandard

ENDINGS = (".zst", ".gz", "")  # of sources, in turn
MAX_WORD = 16
"""Characters that keyed.word takes: the table refuses a longer one after the other tables took their rows."""
IDS_OF_SOURCE = 1_000_000_000  # lines of source n have the ids from n times this on
TWIN_IDS = 9_000_000 * IDS_OF_SOURCE  # lines of identical chunks; no source has so high a number
REFRAIN = {"id": TWIN_IDS - 1, "word": "refrain", "at": 1, "first": "refrain", "latest": "refrain", "total": "refrain", "n": 1}
"""One line that stands in every chunk but the identical ones, several times."""
N_TOTALS = 24  # keys of totals; the lowest numbers are by far the commonest
PAUSE_LINES = 16  # lines that share one pause, so that sleeping is exact enough


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the material as it was written. raw_bytes and sha256 are of its plain lines."""

    no: int
    path: str
    n_lines: int
    n_chunks: int
    raw_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class Note:
    """A task of the general queue: its function adds one row to campaign.notes, after it has failed as often as fails says."""

    no: int
    text: str
    fails: int = 0
    wait_s: float = 0.0  # it sleeps that long before its row and again after it

    @property
    def request_id(self) -> str:
        """Names the submission: asking again makes no second task."""
        return f"note-{self.no}"


@dataclass(frozen=True)
class Expected:
    """What is to be loaded. What must then be in the database, oracle.answer() works out of the sources themselves.

    dead_chunks: (source's name, first line) of chunks that are meant to die. notes: rows of general tasks that succeed.
    """

    chunk_lines: int
    sources: tuple[Source, ...]
    dead_chunks: tuple[tuple[str, int], ...] = ()
    notes: tuple[Note, ...] = field(default=())

    def with_notes(self, notes: Iterable[Note]) -> Expected:
        """The same with these notes besides."""
        return replace(self, notes=(*self.notes, *notes))

    def plus(self, other: Expected) -> Expected:
        """Both materials loaded into one database; a source of both counts once."""
        if self.chunk_lines != other.chunk_lines:
            raise ValueError(f"materials of {self.chunk_lines} and {other.chunk_lines} lines a chunk are no one campaign's")
        sources = {source.path: source for source in (*self.sources, *other.sources)}
        notes = {note.no: note for note in (*self.notes, *other.notes)}
        dead = tuple(dict.fromkeys((*self.dead_chunks, *other.dead_chunks)))
        return Expected(self.chunk_lines, tuple(sources.values()), dead, tuple(notes.values()))

    def only(self, *names: str) -> Expected:
        """The part that was submitted, by the sources' file names."""
        return Expected(self.chunk_lines, tuple(s for s in self.sources if s.name in names), self.dead_chunks, self.notes)

    @property
    def paths(self) -> list[str]:
        return [source.path for source in self.sources]

    def save(self, path: Path) -> None:
        """Write it to path; who reads it meanwhile finds it whole, as it was or as it is."""
        unseen = path.with_name(f"{path.name}.new")
        unseen.write_text(json.dumps(asdict(self), indent=1))
        unseen.replace(path)

    @classmethod
    def load(cls, path: Path) -> Expected:
        value = json.loads(path.read_text())
        return cls(
            value["chunk_lines"],
            tuple(Source(**source) for source in value["sources"]),
            tuple((name, line) for name, line in value["dead_chunks"]),
            tuple(Note(**note) for note in value["notes"]),
        )


def make(
    directory: Path,
    *,
    seed: int,
    n_sources: int,
    n_chunks: int,
    chunk_lines: int,
    pad_bytes: int,
    line_s: float = 0.0,
    first_source_no: int = 1,
    poison: tuple[int, int] | None = None,
) -> Expected:
    """Write sources of n_chunks chunks each into directory and return what is to be loaded from them.

    pad_bytes:       of text that each line carries, and campaign.events keeps.
    line_s:          seconds that the pipeline sleeps for a line, on average.
    first_source_no: of the numbers that name sources and their lines; two materials for one database must not share any.
    poison:          place of a source and of a chunk in it (from 0) that kills each process which works on it.
    Guarantee:       the same arguments write the same plain lines.
    """
    directory.mkdir(parents=True, exist_ok=True)
    maker = _Maker(seed, chunk_lines, pad_bytes, line_s, n_contested=max(1, n_sources * n_chunks * chunk_lines // 400))
    sources, dead = [], tuple[tuple[str, int], ...]()
    for no in range(first_source_no, first_source_no + n_sources):
        path = directory / f"source-{no:04d}.jsonl{ENDINGS[no % len(ENDINGS)]}"
        lines = list(maker.lines_of_source(no, n_chunks))
        if poison is not None and no == first_source_no + poison[0]:
            lines.insert(poison[1] * chunk_lines + chunk_lines // 2, _json({"id": no * IDS_OF_SOURCE, "poison": True}) + b"\n")
            dead = ((path.name, poison[1] * chunk_lines + 1),)
        plain = b"".join(lines)
        path.write_bytes(_stored(plain, path.suffix))
        n_lines = plain.count(b"\n") + (not plain.endswith(b"\n"))
        sources.append(Source(no, str(path), n_lines, -(-n_lines // chunk_lines), len(plain), hashlib.sha256(plain).hexdigest()))
    return Expected(chunk_lines, tuple(sources), dead)


def make_notes(n: int, *, seed: int, first_no: int = 1, wait_s: float = 0.0) -> tuple[Note, ...]:
    """Notes with the numbers from first_no on; every eighth fails once before it succeeds."""
    rng = random.Random(f"{seed}/notes/{first_no}")
    words = [f"{rng.getrandbits(32):08x}" for _ in range(n)]
    return tuple(Note(no, word, int(no % 8 == 0), wait_s) for no, word in enumerate(words, start=first_no))


def plain_of(source: Source) -> bytes:
    """The source's plain bytes. Raises ValueError: the file is not the one that was written."""
    stored = Path(source.path).read_bytes()
    if source.path.endswith(".zst"):
        with zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as reader:
            stored = reader.read()
    elif source.path.endswith(".gz"):
        stored = gzip.decompress(stored)
    if hashlib.sha256(stored).hexdigest() != source.sha256:
        raise ValueError(f"{source.path} is not the file that the campaign wrote: its oracle knows nothing of it")
    return stored


def _stored(plain: bytes, suffix: str) -> bytes:
    """Compressed in two frames or members, cut anywhere."""
    half = len(plain) // 2
    if suffix == ".zst":
        return b"".join(zstandard.ZstdCompressor(level=1).compress(part) for part in (plain[:half], plain[half:]))
    if suffix == ".gz":
        return b"".join(gzip.compress(part, 1, mtime=0) for part in (plain[:half], plain[half:]))
    return plain


class _Maker:
    def __init__(self, seed: int, chunk_lines: int, pad_bytes: int, line_s: float, n_contested: int) -> None:
        self._seed, self._chunk_lines, self._pad_bytes, self._line_s = seed, chunk_lines, pad_bytes, line_s
        self._n_contested = n_contested
        self._twins = [list(self._twin(twin_no)) for twin_no in range(2)]

    def lines_of_source(self, no: int, n_chunks: int) -> Iterator[bytes]:
        rng = random.Random(f"{self._seed}/{no}")
        twins = {1: 0, n_chunks - 2: 0} if no % 2 else {2: 0, n_chunks - 2: 1}
        if no % 3 == 0:
            yield b"\xef\xbb\xbf"  # a BOM, which is no part of line 1
        for chunk_no in range(n_chunks):
            if chunk_no > 0 and chunk_no in twins:
                yield from self._twins[twins[chunk_no]]
                continue
            is_last = chunk_no == n_chunks - 1
            n_lines = self._chunk_lines if not is_last else max(1, self._chunk_lines - rng.randrange(self._chunk_lines // 2 + 1))
            for index in range(n_lines):
                line = self._line(rng, no, chunk_no * self._chunk_lines + index + 1)
                is_end = is_last and index == n_lines - 1 and no % 2 == 0
                yield line + (b"" if is_end and line.strip() else b"\r\n" if rng.random() < 0.02 else b"\n")

    def _twin(self, twin_no: int) -> Iterator[bytes]:
        """A chunk that stands in several places: its lines have no key, or all but one of the places would refuse them."""
        rng = random.Random(f"{self._seed}/twin/{twin_no}")
        for index in range(self._chunk_lines):
            line_id = TWIN_IDS + (self._seed % 1_000) * 10 * IDS_OF_SOURCE + twin_no * IDS_OF_SOURCE + index * 10
            yield _json(self._slowed(index, self._loaded(rng, line_id))) + b"\n"

    def _line(self, rng: random.Random, source_no: int, line_no: int) -> bytes:
        line_id = source_no * IDS_OF_SOURCE + line_no * 10
        line = self._loaded(rng, line_id)
        line["key"] = f"own-{line_id}"
        match rng.randrange(100):
            case 0 | 1:
                return rng.choice([b"", b" ", b"\t \t", b"\r"])
            case 2 | 3:
                line = {"id": line_id, "skip": True}
            case 4:
                line["refuse"] = rng.choice(["below absolute zero", "too late", "of no known sensor"])
            case 5:
                return _json(line)[: rng.randrange(8, 40)]  # cut off before its JSON ends
            case 6:
                line["word"] = "w" * (MAX_WORD + 1 + rng.randrange(8))
            case 7:
                line["parts"] = [f"children[{place}]" for place in range(rng.randrange(1, 3))]
            case 8:
                line = {"id": line_id, "nothing": True}
            case 9:
                line["key"] = f"contested-{rng.randrange(self._n_contested)}"
                line |= {"first": None, "latest": None, "total": None, "children": []}  # who wins is seen in events and keyed alone
            case 10 | 11 | 12:
                line = dict(REFRAIN)
            case 13 | 14 | 15:
                del line["key"]
        return _json(self._slowed(line_no, line))

    def _loaded(self, rng: random.Random, line_id: int) -> dict[str, Any]:
        n_children = rng.choice([0, 0, 0, 1, 2])
        return {
            "id": line_id,
            "word": f"{rng.getrandbits(40):010x}",
            "at": rng.randrange(1, 40),
            "first": f"f{rng.randrange(self._chunk_lines)}" if rng.random() < 0.3 else None,
            "latest": f"l{rng.randrange(self._chunk_lines)}" if rng.random() < 0.3 else None,
            "total": _total(rng),
            "n": rng.randrange(1, 1_000),
            "children": [{"total": _total(rng), "n": rng.randrange(1, 10)} for _ in range(n_children)],
            "pad": f"{rng.getrandbits(4 * self._pad_bytes):0{self._pad_bytes}x}" if self._pad_bytes else "",
        }

    def _slowed(self, line_no: int, line: dict[str, Any]) -> dict[str, Any]:
        if self._line_s and line_no % PAUSE_LINES == 0:
            line["wait_s"] = round(self._line_s * PAUSE_LINES, 6)
        return line


def _total(rng: random.Random) -> str:
    return f"t{int(N_TOTALS * rng.random() ** 3)}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
