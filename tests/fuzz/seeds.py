"""Where the fuzzer begins: small archives of every format, good and damaged, and a script of each target.

Made, not stored: the corpus in ``corpus/`` holds only inputs that once found something.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from tests.fuzz.script import FORMATS, Script, archive_of

TEXTS = (b"", b"a\n", b'{"a": 1}\r\n\r\n{"b": 2}', b"\xef\xbb\xbfx\n" * 40, b"\n" * 3_000, bytes(range(256)) * 8)


def seeds() -> Iterator[bytes]:
    """Inputs of targets.run, the same ones at each call."""
    chance = random.Random(20_261_121)
    for kind in FORMATS:
        for _ in range(4):
            parts = chance.choices(TEXTS, k=3)
            archive, _, _ = archive_of(kind, parts, Script(chance.randbytes(60)))
            yield b"\0" + archive
            yield b"\0" + archive[: chance.randrange(len(archive) + 1)]
    for archive in (zstd_window(10), zstd_window(27), zstd_window(31), zstd_window(41), xz_dictionary(20), xz_dictionary(40), bomb()):
        yield b"\0" + archive
    for target in (1, 2, 3):
        for n_bytes in (0, 20, 60, 200, 600):
            yield bytes([target]) + chance.randbytes(n_bytes)


def zstd_window(log: int, n_frames: int = 1) -> bytes:
    """Frames of one short block that say they need a window of 2^log bytes (RFC 8878, 3.1.1.1.2)."""
    block = b"hello\n"
    return (b"\x28\xb5\x2f\xfd\x00" + bytes([log - 10 << 3]) + (len(block) << 3 | 1).to_bytes(3, "little") + block) * n_frames


def xz_dictionary(bits: int) -> bytes:
    """An xz stream of 2,000 lines that says it needs a dictionary of this code; 40 is 4 GiB less a byte (xz format, 5.3.1)."""
    archive, _, _ = archive_of("xz", [b"hello\n" * 2_000], Script(b""))
    header_bytes = (archive[12] + 1) * 4  # after the stream header of 12 bytes
    header = bytearray(archive[12 : 12 + header_bytes])
    header[header.index(b"\x21\x01") + 2] = bits
    header[-4:] = struct.pack("<I", zlib.crc32(bytes(header[:-4])))
    return archive[:12] + bytes(header) + archive[12 + header_bytes :]


def bomb(n_bytes: int = 1 << 20) -> bytes:
    """A gzip member of zeros: a thousandth of their size."""
    stream = zlib.compressobj(9, wbits=31)
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(n_bytes >> 20)) + stream.flush()
