"""Sources that hypothesis draws: any bytes, packed in any format by any of its writers, with what belongs between frames."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from hypothesis import assume
from hypothesis import strategies as st

from protheon_dask.workspace.archives import sniff
from protheon_dask.workspace.source import identify
from protheon_dask.workspace.splitting import ChunkCut, Credit, SplitEnded, SplitJob, split
from tests.fuzz.script import FORMATS, Script, archive_of

WORDS = st.lists(st.sampled_from([b"\n", b"\n", b"\r\n", b"a", b"{}", b"\xef\xbb\xbf", b" \t", b"x" * 40, b"\0", b"\xff"]), max_size=60)
PARTS = st.lists(
    st.one_of(
        st.binary(max_size=200),
        WORDS.map(b"".join),
        st.tuples(st.binary(min_size=1, max_size=20), st.integers(1, 600)).map(lambda drawn: drawn[0] * drawn[1]),
    ),
    min_size=1,
    max_size=4,
)


@dataclass(frozen=True)
class Source:
    """An archive, what is packed in it, and where its frames begin, the end of the last one included."""

    kind: str
    raw: bytes
    packed: bytes
    stored_starts: list[int]
    raw_starts: list[int]

    def whole_before(self, stored_offset: int) -> int:
        """How many raw bytes are in frames that end at or before the offset."""
        pairs = zip(self.stored_starts, self.raw_starts, strict=True)
        return max((raw for stored, raw in pairs if stored <= stored_offset), default=0)


def pack_source(kind: str, parts: list[bytes], script: bytes) -> Source:
    packed, stored, raw = archive_of(kind, parts, Script(script))
    assume(sniff(packed[:10]) == kind)  # a plain text may begin like an archive
    return Source(kind, b"".join(parts), packed, stored, raw)


SOURCES = st.builds(pack_source, st.sampled_from(FORMATS), PARTS, st.binary(max_size=60))
COMPRESSED = st.builds(pack_source, st.sampled_from(FORMATS[1:]), PARTS, st.binary(max_size=60))
LIMITS = st.fixed_dictionaries(
    {"chunk_lines": st.integers(1, 60), "max_chunk_raw_bytes": st.integers(1, 3_000), "max_line_bytes": st.integers(0, 300)}
)
BLOCKS = st.tuples(st.integers(1, 5_000), st.integers(1, 5_000), st.integers(1, 2_000))
"""Bytes of a block, of a read, and between two starts."""


def job_for(path: str, directory: str, limits: dict[str, int]) -> SplitJob:
    return SplitJob(load_id=1, path=path, directory=directory, identity=identify(path), **limits)


def cut(job: SplitJob) -> tuple[list[ChunkCut], SplitEnded]:
    """All chunks of a job, and its end."""
    *chunks, ended = split(job, Credit(1 << 60))
    assert isinstance(ended, SplitEnded), ended
    return [chunk for chunk in chunks if isinstance(chunk, ChunkCut)], ended


def after(job: SplitJob, chunk: ChunkCut | None, directory: str) -> SplitJob:
    """The job that goes on after a chunk, in another directory."""
    return msgspec.structs.replace(job, resume_after=chunk and chunk.manifest, directory=directory)
